"""Number formats and backends from outside: by entry point, or by path.

    [project.entry-points."ebsim.formats"]     int4 = "my_package:INT4"        a NumberFormat
    [project.entry-points."ebsim.backends"]    w4a8 = "my_package:W4A8"        a Backend or a table (dict)

By path: "formats/int4.py:INT4" (relative to the working directory; in an experiment's TOML, to that file first).
Loading runs that file, once for each of its contents. Names are read from package metadata without importing anything.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from ebsim.errors import ConfigError

_registered: dict[str, dict[str, str]] = {"formats": {}, "backends": {}}


def found(kind: str) -> dict[str, EntryPoint]:
    """Entry points of "formats" or "backends" by name; two packages claiming one name are an error."""
    from ebsim.precision import backends
    from ebsim.precision.formats import number_format

    taken: Any = {"formats": number_format.BUILTIN, "backends": backends.PRESETS}[kind]
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
    """Make the formats and backends of "file.py:NAME" known by their own names, for this process.

    A table (dict) of a backend is known by its attribute's name. A name registered before now means the new one; two of
    one call, or a name that is built in or installed, are a `ConfigError`.
    """
    for problem in refused(specs):
        raise ConfigError(problem)


def refused(specs: tuple[str, ...] | list[str]) -> Iterator[str]:
    """Register what can be, and say what is wrong with the rest."""
    from ebsim.precision import backends
    from ebsim.precision.formats import number_format

    made: dict[tuple[str, str], str] = {}
    for spec in specs:
        try:
            kind, name = _kind_and_name(spec)
            if name in (*number_format.BUILTIN, *backends.PRESETS, *found(kind)):
                owner = whence(kind, name) or "ebsim"
                raise ConfigError(f"{spec} is called {name!r}, which exists already (from {owner}): rename it")
            if made.setdefault((kind, name), spec) != spec:
                raise ConfigError(f"{spec} and {made[kind, name]} are both called {name!r}: rename one")
        except ConfigError as error:
            yield str(error)
            continue
        path, _, attribute = spec.rpartition(":")
        _registered[kind][name] = f"{Path(path).resolve()}:{attribute}"


def _kind_and_name(spec: str) -> tuple[str, str]:
    from ebsim.precision import backends
    from ebsim.precision.formats import number_format

    if ".py:" not in spec:
        raise ConfigError(f'precision plug-in {spec!r}: write "path/to/file.py:NAME"')
    made = load("", spec)
    if isinstance(made, number_format.NumberFormat):
        return "formats", made.name
    if isinstance(made, backends.Backend):
        return "backends", made.name
    if isinstance(made, Mapping):
        return "backends", spec.rpartition(":")[2]
    raise ConfigError(f"{spec} is a {type(made).__name__}, neither a NumberFormat nor a Backend")


def origins(kind: str) -> dict[str, str]:
    """Name -> origin of the plug-ins of this kind: package and version, or path."""
    return {n: origin(p) for n, p in sorted(found(kind).items())} | _registered[kind]


def origin(point: EntryPoint) -> str:
    """Package and version an entry point comes from."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def whence(kind: str, spec: str) -> str | None:
    """Where a name, or a format with a variant and a rounding, comes from; None if it is built in or unknown."""
    if ".py:" in spec:
        path, _, name = spec.rpartition(":")
        return f"{path}:{name.partition(' ')[0]}"
    name = spec.partition(" ")[0].partition("/")[0]
    from ebsim.precision import backends
    from ebsim.precision.formats import number_format

    known: Any = {"formats": number_format.BUILTIN, "backends": backends.PRESETS}[kind]
    return None if name in known else origins(kind).get(name)


def load(kind: str, name: str) -> Any | None:
    """The object behind a plug-in name or "file.py:NAME"; None if there is no such name."""
    if ".py:" in name:
        path, _, attribute = name.rpartition(":")
        return _from_file(path, attribute)
    if name in _registered[kind]:
        return load(kind, _registered[kind][name])
    point = found(kind).get(name)
    if point is None:
        return None
    try:
        return point.load()
    except Exception as error:  # it is their code that runs here
        raise ConfigError(f"plug-in {name!r} of {origin(point)} cannot be loaded: {_told(error)}") from error


def _from_file(name: str, attribute: str) -> Any:
    try:
        path = Path(name).resolve()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError):  # ValueError: a text that is no path
        raise ConfigError(f"no such file: {name}") from None
    module = _module(path, digest[:12])
    if not hasattr(module, attribute):
        from ebsim.precision.formats.number_format import nearest_name

        own = [name for name, value in vars(module).items() if name.isupper() and not isinstance(value, ModuleType)]
        raise ConfigError(f"{path} defines no {attribute!r}{nearest_name(attribute, own) if own else ''}")
    return getattr(module, attribute)


@functools.cache
def _module(path: Path, digest: str) -> ModuleType:
    """A file's module, importable by its name as torch's compiler wants it; changed contents are another module."""
    name = f"ebsim_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: not a Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # it is their code that runs here
        del sys.modules[name]
        raise ConfigError(f"{path} cannot be loaded: {_told(error)}") from error
    return module


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
