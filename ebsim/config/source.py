"""Reads an experiment's TOML: plain values with the line of every key, and `--set key=value` overrides.

`tomllib` gives values but no positions, so `key_lines` finds them again in the text. It is a locator for messages
only (multi-line strings that contain what looks like a key can fool it), never a second parser.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ebsim.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32

_HEADER = re.compile(r"^\s*\[\[?\s*([^\]\[]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""^\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")
_BARE = re.compile(r"^[A-Za-z_./~\\][^\s\"'\[\]{}=,#]*$")  # a word or a path


@dataclass
class ExperimentSource:
    """Values of an experiment file with overrides laid over them, and where each key stands."""

    label: str
    values: dict[str, Any]
    places: dict[str, str] = field(default_factory=dict)
    folder: Path = Path()
    """Of the file; its relative paths are looked for there first (see `config.paths`)."""

    def place(self, key: str) -> str:
        """`file:line` of a dotted key, or of its nearest parent that is written down."""
        parts = key.split(".")
        while parts:
            if (found := self.places.get(".".join(parts))) is not None:
                return found
            parts.pop()
        return self.label

    def order(self, key: str) -> tuple[int, int]:
        """Where `place` stands: (0, line), before (1, number of the override)."""
        place = self.place(key)
        line = place.removeprefix(f"{self.label}:")
        if line.isdecimal():
            return 0, int(line)
        return (0, 0) if place == self.label else (1, list(self.places.values()).index(place))


def _split(dotted: str) -> list[str]:
    parts = re.findall(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""", dotted)
    return [part.strip("\"'") for part in parts]


def key_lines(text: str) -> dict[str, int]:
    """Line number (from 1) of each dotted key and table header, best effort; tables of a list are numbered from 0."""
    lines: dict[str, int] = {}
    table: list[str] = []
    count: Counter[str] = Counter()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = _split(header.group(1))
            lines.setdefault(".".join(table), number)
            if line.lstrip().startswith("[["):
                name = ".".join(table)
                table.append(str(count[name]))
                count[name] += 1
                lines[".".join(table)] = number
        elif key := _KEY.match(line):
            lines.setdefault(".".join(table + _split(key.group(1))), number)
    return lines


def _depth(value: Any, level: int = 0) -> int:
    """Nesting depth, without recursion so that hostile input cannot exhaust the stack."""
    deepest, pending = level, [(value, level)]
    while pending:
        item, at = pending.pop()
        deepest = max(deepest, at)
        if isinstance(item, dict):
            pending.extend((child, at + 1) for child in item.values())
        elif isinstance(item, list):
            pending.extend((child, at + 1) for child in item)
    return deepest


def parse_toml(text: str, label: str) -> dict[str, Any]:
    """`tomllib.loads` with every way to fail turned into a `ConfigError` that names the file."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        where = f"{label}:{line.group(1)}" if line else label
        raise ConfigError(f"{where}: not valid TOML: {error}. Nothing was run.") from error
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"{label}: not acceptable TOML ({error}). Nothing was run.") from error
    if _depth(values) > MAX_DEPTH:
        raise ConfigError(f"{label}: tables nested deeper than {MAX_DEPTH}. Nothing was run.")
    return values


def read(path: Path) -> ExperimentSource:
    """Read an experiment file; `ConfigError` if it is missing, too large, not text or not TOML."""
    label = str(path)
    try:
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "not there"
            raise ConfigError(f"{label}: {kind}; give the path of an experiment TOML, see experiments/.")
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{label}: larger than {MAX_BYTES:,} bytes; not an experiment file.")
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{label}: not UTF-8 text ({error.reason} at byte {error.start}).") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{label}: cannot be read ({error}).") from error
    values = parse_toml(text, label)
    return ExperimentSource(
        label, values, {key: f"{label}:{line}" for key, line in key_lines(text).items()}, path.parent
    )


def parse_value(text: str, where: str) -> Any:
    """The right-hand side of an override: a TOML value; a bare word stands for a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        if _BARE.match(text.strip()):
            return text.strip()
        raise ConfigError(f'{where}: {text!r} is not a TOML value (a number, true, [1, 2] or "text").') from error


def override(source: ExperimentSource, settings: dict[str, Any]) -> None:
    """Lay dotted `settings` over a source, in place; each remembers that it came from `--set`."""
    for key, value in settings.items():
        parts = key.split(".")
        if not all(parts):
            raise ConfigError(f"--set {key}: write it as section.key=value.")
        table = source.values
        for part in parts[:-1]:
            inner = table.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"--set {key}: {part} is a value, not a table.")
            table = inner
        table[parts[-1]] = value
        source.places[key] = f"--set {key}"


def parse_settings(pairs: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """`["train.epochs=40", ...]` -> {"train.epochs": 40, ...}."""
    out: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign:
            raise ConfigError(f"--set {pair}: write it as section.key=value.")
        out[key.strip()] = parse_value(text, f"--set {key.strip()}")
    return out
