"""Reads the TOML of a profile with the line of every key, so that each error names file, line and key.

`tomllib` gives values without positions, so the lines of the keys are found by scanning the text a second
time. `extends` lets a profile start from another (shipped name or relative path); chains are short and
acyclic. Problems are collected, so that one attempt shows them all.
"""

from __future__ import annotations

import contextlib
import math
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hw_models.accelerator.constant import Number
from hw_models.errors import ProfileError, did_you_mean, nearest

MAX_BYTES = 256 * 1024
MAX_CHAIN = 8
SHIPPED = Path(__file__).parents[1] / "profiles"


@dataclass
class ProfileSource:
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
                self.problem(
                    key,
                    f"is missing; add {key.rpartition('.')[2]} = "
                    + (f"{low:g}" if low == high else f"..., a number from {low:g} to {high:g}"),
                )
                return low
            return default
        return self._ranged(key, value, low, high)

    def _ranged(self, key: str, value: Any, low: float, high: float) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.problem(key, f"is {value!r}, must be a finite number from {low:g} to {high:g}")
        elif not low <= value <= high:
            wanted = f"{low:g}" if low == high else f"from {low:g} to {high:g}"
            self.problem(key, f"is {value:g}, must be {wanted}")
        else:
            return float(value)
        return low

    def number(self, key: str, low: float, high: float) -> Number | None:
        """A constant: a float, or {value, band, source, derived}; all but the value may stand in its table."""
        raw = self.get(key)
        if raw is None:
            return None
        return self.constant(key, raw if isinstance(raw, dict) else {"value": raw}, low, high)

    def constant(self, key: str, own: dict[str, Any], low: float, high: float) -> Number | None:
        """The constant that `own` describes, standing at `key`."""
        for name in own:
            self.seen.add(f"{key}.{name}")
            if name not in ("value", "band", "source", "derived"):
                self.problem(f"{key}.{name}", _unknown(name, ["value", "band", "source", "derived"]))
        if "value" not in own:
            self.problem(key, 'has no value; write {value = ..., source = "..."}')
            return None
        value = self._ranged(key, own["value"], low, high)
        band = self._ranged(f"{key}.band", own.get("band", self._inherited(key, "band", 1.5)), 1.0, 100.0)
        source = own.get("source", self._inherited(key, "source", None))
        if not isinstance(source, str) or not source.strip():
            table = next((t for t in _around(key) if self.get(f"{t}.source") is not None), "")
            if source is None or "source" in own or not table:
                self.problem(key, 'has no source; add source = "where the number comes from" to it or to its table')
            else:
                self.problem(f"{table}.source", f"is empty; say where the number comes from (it is that of {key})")
            source = ""
        derived = own.get("derived", self._inherited(key, "derived", False))
        if not isinstance(derived, bool):
            self.problem(f"{key}.derived", "must be true or false")
        return Number(value, band, source, bool(derived))

    def _inherited(self, key: str, name: str, default: Any) -> Any:
        """`name` (source, band, derived) of the nearest table around `key`; the top of the file does not count."""
        found = (self.get(f"{table}.{name}") for table in _around(key))
        return next((value for value in found if value is not None), default)

    def refuse_unknown(self) -> None:
        """Adds a problem for every key that was never read, with the nearest valid one."""
        known: dict[str, set[str]] = {}  # table -> its keys
        for key in self.seen:
            while key:
                table, _, name = key.rpartition(".")
                known.setdefault(table, set()).add(name)
                key = table
        told = set()
        for path in _paths(self.data):
            table = ""
            for name in path.split("."):
                here = f"{table}.{name}" if table else name
                if here not in self.seen and here not in known and here not in told:
                    told.add(here)
                    self.problem(here, _unknown(name, sorted(known.get(table, set()))))
                if here not in known:
                    break
                table = here


def _around(key: str) -> list[str]:
    """The tables around a key, the nearest first."""
    parts = key.split(".")
    return [".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1)]


def _unknown(name: str, valid: list[str]) -> str:
    return f"is not a known key{did_you_mean(name, sorted(set(valid)))}"


def _paths(data: dict[str, Any], prefix: str = "") -> list[str]:
    out: list[str] = []
    for key, value in data.items():
        path = f"{prefix}{key}"
        out += _paths(value, path + ".") if isinstance(value, dict) and value else [path]
    return out


def read(name_or_path: str | Path) -> ProfileSource:
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
    raise ProfileError(
        f"{shown}: no such accelerator profile{_meant(text[:200], names, path)} "
        f"(shipped: {', '.join(names)}; or the path of a TOML file)"
    )


def _like_a_profile(path: Path) -> bool:
    """Whether a TOML file may be meant as a profile: it has a clock, or starts from another profile."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return bool(re.search(rb"(?m)^\s*(clock_ghz|extends)\s*=", file.read(MAX_BYTES)))
    return False


def _meant(text: str, shipped: list[str], path: Path) -> str:
    """`; did you mean X?` of the nearest shipped profile or file in the same folder, or ""."""
    files = []
    with contextlib.suppress(OSError, ValueError):
        files = [p.name for p in path.parent.glob("*.toml") if p.name.isprintable() and _like_a_profile(p)]
    starts = [name for name in shipped if len(text) > 2 and name.startswith(text.lower()[:5])]
    beside = nearest(path.name, files)
    near = str(path.with_name(beside)) if beside else nearest(text, shipped) or next(iter(starts), "")
    return f"; did you mean {near}?" if near else ""


def _read(path: Path, chain: list[Path]) -> ProfileSource:
    resolved = path.resolve()
    if resolved in chain:
        raise ProfileError(
            f"{path}:1: extends: goes round in a circle "
            f"({' -> '.join(p.name for p in [*chain, resolved])}); remove one of them"
        )
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
        last = text.count("\n") + 1 if "end of document" in str(error) else 1
        twice = "; a key or table that stands twice?" if "overwrite" in str(error) or "twice" in str(error) else ""
        raise ProfileError(f"{path}:{line[1] if line else last}: not valid TOML: {error}{twice}") from error
    except RecursionError as error:
        raise ProfileError(f"{path}:1: nested too deeply") from error
    except OSError as error:
        raise ProfileError(f"{path}:1: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise ProfileError(f"{path}:1: larger than {MAX_BYTES // 1024} KiB, which no profile is")
    source = ProfileSource(str(path), data, {k: (str(path), n) for k, n in key_lines(text).items()})
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
    return ProfileSource(str(path), _merge(base.data, data), {**base.lines, **source.lines})


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`; tables merge key by key, a constant is replaced whole."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        constant = isinstance(value, dict) and "value" in value
        out[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) and not constant else value
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
