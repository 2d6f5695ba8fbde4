"""Loads number formats and backends from plug-ins: by entry point, or by path.

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
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from ebsim.errors import ConfigError, did_you_mean

_ran: dict[str, str] = {}
_skipped: list[str] | None = None
_forbidden = False


class NotRun(ConfigError):
    """The code of a plug-in was not run, because only looking was asked for."""


@contextmanager
def only_looking() -> Iterator[list[str]]:
    """Run no code of plug-ins in here: what would need it raises `NotRun`. Yields the list of what was not run."""
    global _skipped
    before, _skipped = _skipped, []
    try:
        yield _skipped
    finally:
        _skipped = before


def unseen() -> bool:
    """Whether something was left unrun by `only_looking`, so that a name that is not known may be one of its own."""
    return bool(_skipped)


def forbid() -> None:
    """Refuse every plug-in from now on, in this process (`--no-plugins`)."""
    global _forbidden
    _forbidden = True


def ran() -> dict[str, str]:
    """What code of others this process has run: path or package and version -> SHA-256 of the file, or "installed"."""
    return dict(_ran)


def _about_to_run(what: str) -> None:
    if _forbidden:
        raise ConfigError(f"{what} is a plug-in, whose code would be run: --no-plugins refuses that")
    if _skipped is not None:
        if what not in _skipped:
            _skipped.append(what)
        raise NotRun(f"{what}: not run")


def installed(kind: str, taken: Collection[str]) -> dict[str, EntryPoint]:
    """Entry points of "formats" or "backends" by name. ConfigError for two of one name, and for one of `taken`."""
    result: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"ebsim.{kind}"):
        if point.name in taken:
            raise ConfigError(f"plug-in {origin(point)} redefines the built-in {point.name!r}: rename it")
        if point.name in result and result[point.name].value != point.value:
            both = f"{origin(result[point.name])} and {origin(point)}"
            raise ConfigError(f"two plug-ins are called {point.name!r}: {both}; uninstall or rename one")
        result[point.name] = point
    return result


def origin(point: EntryPoint) -> str:
    """Package and version an entry point comes from."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def load_entry_point(point: EntryPoint) -> Any:
    """The object an entry point names; ConfigError if its package cannot be imported."""
    _about_to_run(origin(point))
    _ran[origin(point)] = "installed"
    try:
        return point.load()
    except Exception as error:  # it is their code that runs here
        message = f"plug-in {point.name!r} of {origin(point)} cannot be loaded: {_error_message(error)}"
        raise ConfigError(message) from error


def load_file(spec: str) -> Any:
    """The object behind "path/to/file.py:NAME"; ConfigError if there is no such file or name."""
    name, _, attribute = spec.rpartition(":")
    try:
        path = Path(name).resolve()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError):  # ValueError: a text that is no path
        raise ConfigError(f"no such file: {name}") from None
    _about_to_run(spec)
    _ran[str(path)] = digest
    module = _module(path, digest[:12])
    if not hasattr(module, attribute):
        own = [name for name, value in vars(module).items() if name.isupper() and not isinstance(value, ModuleType)]
        raise ConfigError(f"{path} defines no {attribute!r}{did_you_mean(attribute, own) if own else ''}")
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
        raise ConfigError(f"{path} cannot be loaded: {_error_message(error)}") from error
    return module


def _error_message(error: Exception) -> str:
    return str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
