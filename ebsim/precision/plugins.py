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


def found(kind: str) -> dict[str, EntryPoint]:
    """Entry points of "formats" or "backends" by name; two packages claiming one name are an error."""
    from ebsim.precision import backends, formats

    taken = {"formats": formats.BUILTIN, "backends": backends.PRESETS}[kind]
    result: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"ebsim.{kind}"):
        if point.name in taken:
            raise ConfigError(f"plug-in {origin(point)} redefines the built-in {point.name!r}: rename it")
        if point.name in result and result[point.name].value != point.value:
            both = f"{origin(result[point.name])} and {origin(point)}"
            raise ConfigError(f"two plug-ins are called {point.name!r}: {both}; uninstall or rename one")
        result[point.name] = point
    return result


def names(kind: str) -> list[str]:
    """Names of the installed plug-ins of this kind."""
    return sorted(found(kind))


def origin(point: EntryPoint) -> str:
    """Package and version an entry point comes from."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def load(kind: str, name: str) -> Any | None:
    """The object behind a plug-in name or "file.py:NAME"; None if there is no such name."""
    if ".py:" in name:
        path, _, attribute = name.rpartition(":")
        return _from_file(Path(path).resolve(), attribute)
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
