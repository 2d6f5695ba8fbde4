"""Reading a profile so that every complaint can name file, line and key.

`tomllib` gives values without positions, so the lines of the keys are found by a second, simple look at the
text. `extends` lets a profile start from another (shipped name or relative path); chains are short and
acyclic. Problems are collected, so that one attempt shows them all.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hw_models.errors import ProfileError

MAX_BYTES = 256 * 1024
MAX_CHAIN = 8
SHIPPED = Path(__file__).parent / "profiles"


@dataclass(frozen=True)
class Number:
    """A constant with its provenance; `band` is the factor x/÷ of its 90 % interval."""

    value: float
    band: float
    source: str
    derived: bool = False


@dataclass
class Source:
    """The merged tables of a profile, where each key was written, and the problems met so far."""

    path: str
    data: dict[str, Any]
    lines: dict[str, tuple[str, int]]
    problems: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def problem(self, key: str, text: str) -> None:
        near = key
        while near and near not in self.lines:
            near = near.rpartition(".")[0]
        file, line = self.lines.get(near, (self.path, 1))
        shown = key if key.isprintable() and len(key) < 100 else f"{key[:100]!a}..."  # a terminal obeys some keys
        self.problems.append(f"{file}:{line}: {shown}: {text}")

    def check(self) -> None:
        """Raise one `ProfileError` with every problem, if there is any."""
        if self.problems:
            raise ProfileError("\n".join(self.problems[:40]))

    def get(self, key: str) -> Any:
        self.seen.add(key)
        value: Any = self.data
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                return None
            value = value[part]
        return value

    def keys(self, key: str) -> list[str]:
        value = self.get(key)
        if value is not None and not isinstance(value, dict):
            self.problem(key, "must be a table")
            return []
        return list(value or {})

    def text(self, key: str, *, choices: tuple[str, ...] = (), required: bool = True) -> str:
        value = self.get(key)
        if value is None:
            if required:
                example = " or ".join(f'"{choice}"' for choice in choices) or '"..."'
                self.problem(key, f"is missing; add {key.rpartition('.')[2]} = {example}")
            return ""
        if not isinstance(value, str) or not value.strip() or len(value) > 2000:
            self.problem(key, "must be a text that is not empty (at most 2,000 characters)")
            return ""
        if not value.isprintable():
            self.problem(key, "must be one line without control characters")
            return ""
        if choices and value not in choices:
            self.problem(key, f"is {value!r}, must be one of {', '.join(choices)}")
            return ""
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.problem(key, "must be true or false")
        return bool(value)

    def plain(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """A number without provenance of its own: geometry, clock, capacity."""
        value = self.get(key)
        if value is None:
            if default is None:
                self.problem(key, f"is missing; add {key.rpartition('.')[2]} = " + (
                    f"{low:g}" if low == high else f"..., a number from {low:g} to {high:g}"))
                return low
            return default
        return self._ranged(key, value, low, high)

    def _ranged(self, key: str, value: Any, low: float, high: float) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.problem(key, f"is {value!r}, must be a finite number from {low:g} to {high:g}")
        elif not low <= value <= high:
            self.problem(key, f"is {value:g}, must be from {low:g} to {high:g}")
        else:
            return float(value)
        return low

    def number(self, key: str, low: float, high: float) -> Number | None:
        """A constant: a float, or {value, band, source, derived}; source and band may stand in its table."""
        raw = self.get(key)
        if raw is None:
            return None
        own = raw if isinstance(raw, dict) else {"value": raw}
        for name in own:
            self.seen.add(f"{key}.{name}")
            if name not in ("value", "band", "source", "derived"):
                self.problem(f"{key}.{name}", _unknown(name, ["value", "band", "source", "derived"]))
        if "value" not in own:
            self.problem(key, "has no value; write {value = ..., source = \"...\"}")
            return None
        value = self._ranged(key, own["value"], low, high)
        band = self._ranged(f"{key}.band", own.get("band", self._inherited(key, "band", 1.5)), 1.0, 100.0)
        source = own.get("source", self._inherited(key, "source", None))
        if not isinstance(source, str) or not source.strip():
            self.problem(key, "has no source; add source = \"where the number comes from\" to it or to its table")
            source = ""
        derived = own.get("derived", False)
        if not isinstance(derived, bool):
            self.problem(f"{key}.derived", "must be true or false")
        return Number(value, band, source, bool(derived))

    def _inherited(self, key: str, name: str, default: Any) -> Any:
        """`name` (source or band) of the nearest table around `key`; the top of the file does not count."""
        while "." in key:
            key = key.rpartition(".")[0]
            value = self.get(f"{key}.{name}")
            if value is not None:
                return value
        return default

    def refuse_unknown(self) -> None:
        """A problem for every key that nobody asked for, with the nearest valid one."""
        for path in _paths(self.data):
            if path not in self.seen and not any(s.startswith(path + ".") for s in self.seen):
                siblings = [s.rpartition(".")[2] for s in self.seen
                            if s.rpartition(".")[0] == path.rpartition(".")[0]]
                self.problem(path, _unknown(path.rpartition(".")[2], siblings))


def _unknown(name: str, valid: list[str]) -> str:
    near = difflib.get_close_matches(name, valid, 1)
    return "is not a known key" + (f"; did you mean {near[0]}?" if near else
                                   f"; known here: {', '.join(sorted(set(valid))[:20])}" if valid else "")


def _paths(data: dict[str, Any], prefix: str = "") -> list[str]:
    out: list[str] = []
    for key, value in data.items():
        path = f"{prefix}{key}"
        out += _paths(value, path + ".") if isinstance(value, dict) and value else [path]
    return out


def read(name_or_path: str | Path) -> Source:
    """The merged tables of a shipped profile (by name) or of a file, `extends` resolved."""
    return _read(locate(name_or_path, Path()), [])


def locate(name_or_path: str | Path, base: Path) -> Path:
    """A shipped profile by name, or a file; raises `ProfileError` with the shipped names."""
    text = str(name_or_path)
    names = sorted(p.stem for p in SHIPPED.glob("*.toml"))
    if text in names:
        return SHIPPED / f"{text}.toml"
    path = base / text
    file = folder = False
    with contextlib.suppress(OSError, ValueError):  # too long for a path, or with a zero byte: neither
        file, folder = path.is_file(), path.is_dir()
    if file:
        return path
    if folder:
        raise ProfileError(f"{path}: is a directory; name the TOML file in it")
    shown = text if text.isprintable() and len(text) < 200 else f"{text[:60]!a}..."
    near = difflib.get_close_matches(text[:200], names, 1)
    raise ProfileError(f"{shown}: no such accelerator profile{f'; did you mean {near[0]}?' if near else ''} "
                       f"(shipped: {', '.join(names)}; or the path of a TOML file)")


def _read(path: Path, chain: list[Path]) -> Source:
    resolved = path.resolve()
    if resolved in chain:
        raise ProfileError(f"{path}:1: extends: goes round in a circle "
                           f"({' -> '.join(p.name for p in [*chain, resolved])}); remove one of them")
    if len(chain) >= MAX_CHAIN:
        raise ProfileError(f"{path}:1: extends: more than {MAX_CHAIN} files in a row")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        text = raw.decode("utf-8") if len(raw) <= MAX_BYTES else ""
        data = tomllib.loads(text)
        _paths(data)  # dotted keys nest without brackets
    except UnicodeDecodeError as error:
        raise ProfileError(f"{path}:1: is not UTF-8 text") from error
    except ValueError as error:  # TOMLDecodeError, and Python's own limit on the digits of a number
        line = re.search(r"line (\d+)", str(error))
        raise ProfileError(f"{path}:{line[1] if line else 1}: not valid TOML: {error}") from error
    except RecursionError as error:
        raise ProfileError(f"{path}:1: nested too deeply") from error
    except OSError as error:
        raise ProfileError(f"{path}:1: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise ProfileError(f"{path}:1: larger than {MAX_BYTES // 1024} KiB, which no profile is")
    source = Source(str(path), data, {k: (str(path), n) for k, n in key_lines(text).items()})
    parent = data.pop("extends", None)
    if parent is None:
        return source
    where = f"{path}:{source.lines.get('extends', ('', 1))[1]}: extends"
    if not isinstance(parent, str):
        raise ProfileError(f"{where}: must be the name or path of a profile")
    try:
        start = locate(parent, path.parent)
    except ProfileError as error:
        raise ProfileError(f"{where}: {error}") from error
    base = _read(start, [*chain, resolved])
    return Source(str(path), _merge(base.data, data), {**base.lines, **source.lines})


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`; tables merge key by key, a constant is replaced whole."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        constant = isinstance(value, dict) and "value" in value
        out[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) \
            and not constant else value
    return out


_HEADER = re.compile(r"^\s*\[\s*([A-Za-z0-9_.\"' -]+?)\s*\]")
_KEY = re.compile(r"^\s*([A-Za-z0-9_.\"'-]+)\s*=")


def key_lines(text: str) -> dict[str, int]:
    """Line of each table and key of a TOML text, by dotted path (inline tables: the line they stand on)."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = header[1].replace('"', "").replace("'", "").replace(" ", "")
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            name = key[1].replace('"', "").replace("'", "")
            lines.setdefault(f"{table}.{name}" if table else name, number)
    return lines
