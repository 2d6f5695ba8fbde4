"""Number formats and backends from outside: by entry point, or by path.

    [project.entry-points."ebsim.formats"]     int4 = "my_package:INT4"        a NumberFormat
    [project.entry-points."ebsim.backends"]    w4a8 = "my_package:W4A8"        a Backend or a dict

By path, in an experiment's TOML: "formats/int4.py:INT4" (relative to the working directory). Loading runs that file.
Names are read from package metadata without importing anything.
"""

from __future__ import annotations

import functools
import importlib.util
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from ebsim.errors import ConfigError

_registered: dict[str, dict[str, str]] = {"formats": {}, "backends": {}}

def found(kind: str) -> dict[str, EntryPoint]:
    """Entry points of "formats" or "backends" by name; two packages claiming one name are an error."""
    from ebsim.precision import backends, formats

    taken: Any = {"formats": formats.BUILTIN, "backends": backends.PRESETS}[kind]
    result: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"ebsim.{kind}"):
        if point.name in taken:
            raise ConfigError(f"plug-in {origin(point)} redefines the built-in {point.name!r}: rename it")
        if point.name in result and result[point.name].value != point.value:
            both = f"{origin(result[point.name])} and {origin(point)}"
            raise ConfigError(f"two plug-ins are called {point.name!r}: {both}; uninstall or rename one")
        result[point.name] = point
    return result


def register(*specs: str) -> None:
    """Make formats and backends of "file.py:NAME" known by their own names, for this process."""
    from ebsim.precision import backends, formats

    for spec in specs:
        if ".py:" not in spec:
            raise ConfigError(f'precision plug-in {spec!r}: write "path/to/file.py:NAME"')
        made: Any = load("", spec)
        kinds: dict[str, Any] = {"formats": formats.NumberFormat, "backends": backends.Backend}
        kind = next((k for k, kind in kinds.items() if isinstance(made, kind)), None)
        if kind is None:
            raise ConfigError(f"{spec} is a {type(made).__name__}, neither a NumberFormat nor a Backend")
        if made.name in (*formats.BUILTIN, *backends.PRESETS, *found(kind)):
            raise ConfigError(f"{spec} is called {made.name!r}, which exists already: rename it")
        if _registered[kind].setdefault(made.name, spec) != spec:
            other = _registered[kind][made.name]
            raise ConfigError(f"{spec} and {other} are both called {made.name!r}: rename one")


def origins(kind: str) -> dict[str, str]:
    """Name -> origin of the plug-ins of this kind: package and version, or path."""
    return {n: origin(p) for n, p in sorted(found(kind).items())} | _registered[kind]


def origin(point: EntryPoint) -> str:
    """Package and version an entry point comes from."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def load(kind: str, name: str) -> Any | None:
    """The object behind a plug-in name or "file.py:NAME"; None if there is no such name."""
    if ".py:" in name:
        path, _, attribute = name.rpartition(":")
        return _from_file(Path(path).resolve(), attribute)
    if name in _registered[kind]:
        return load(kind, _registered[kind][name])
    point = found(kind).get(name)
    if point is None:
        return None
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"plug-in {name!r} of {origin(point)} cannot be loaded: {error}") from error


@functools.cache
def _from_file(path: Path, attribute: str) -> Any:
    if not path.is_file():
        raise ConfigError(f"no such file: {path}")
    spec = importlib.util.spec_from_file_location(f"ebsim_plugin_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, attribute):
        raise ConfigError(f"{path} defines no {attribute!r}")
    return getattr(module, attribute)
