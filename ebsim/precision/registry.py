"""The backends that can be named: built in, installed as plug-ins, registered by path; and `backend`, which finds one.

`refused` and `register` also take formats: a plug-in file says by its object which of the two it defines.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ebsim.errors import ConfigError, did_you_mean
from ebsim.precision import plugins
from ebsim.precision.backend_table import Problem, parse
from ebsim.precision.backends import Backend
from ebsim.precision.formats.number_format import NumberFormat
from ebsim.precision.formats.registry import FORMATS
from ebsim.precision.names import NameRegistry
from hw_models.precision.presets import PRESETS

BACKENDS = NameRegistry("backends", PRESETS)
_REGISTRIES = {"formats": FORMATS, "backends": BACKENDS}


def list_backends() -> dict[str, str]:
    """Name -> origin ("built in", or the plug-in's package and version, or path)."""
    return BACKENDS.origins()


def backend(which: str | Mapping[str, Any] | Backend) -> Backend:
    """A backend by preset or plug-in name, by "file.py:NAME", or from a table. Raises ConfigError."""
    if isinstance(which, Backend):
        return which
    if isinstance(which, Mapping):
        table = dict(which)
        return _valid(str(table.pop("name", "custom")), table)
    if which in PRESETS:
        return _preset(which)
    found = BACKENDS.find(which)
    if found is None:
        raise ConfigError(f"unknown precision {which!r}{meant(which, BACKENDS.origins())}")
    return found if isinstance(found, Backend) else _valid(which.rpartition(":")[2], found)


def meant(name: str, known: Iterable[str]) -> str:
    """What to add of a name that is no precision; a number format is told apart from a misspelled one."""
    if name.partition(" ")[0].partition("/")[0] not in FORMATS.origins():
        return did_you_mean(name, known)
    table = ", ".join(f'{role} = "{name}"' for role in ("weight", "activation", "error"))
    return (
        f"; it is a number format, and a precision says which tensors take which format. There is: "
        f"{', '.join(sorted(known))}; or a table of your own (docs/precision.md): [precision.backends.mine] {table}"
    )


def parse_backend(name: str, table: Any) -> tuple[Backend | None, list[Problem]]:
    """A table's backend, or None and every problem that it has, as (key, what is wrong)."""
    return parse(name, table, backend)


def _valid(name: str, table: Any) -> Backend:
    made, problems = parse_backend(name, table)
    if made is None:
        lines = [f"precision backend {name!r}{key and ', '}{key}: {problem}" for key, problem in problems]
        raise ConfigError("\n".join(lines))
    return made


@functools.cache
def _preset(name: str) -> Backend:
    return _valid(name, PRESETS[name])


def plugin_origin(kind: str, name: str) -> str | None:
    """Where a format or backend comes from (package and version, or path); None if it is built in or unknown."""
    return _REGISTRIES[kind].plugin_origin(name)


def register(*specs: str) -> None:
    """Make the formats and backends of "file.py:NAME" known by their own names, for this process.

    A table (dict) of a backend is known by its attribute's name. A name registered before now means the new one; two of
    one call, or a name that is built in or installed, are a `ConfigError`.
    """
    for problem in refused(specs):
        raise ConfigError(problem)


def refused(specs: tuple[str, ...] | list[str]) -> Iterator[str]:
    """Register what can be, and say what is wrong with the rest."""
    made: dict[tuple[str, str], str] = {}
    for spec in specs:
        try:
            kind, name = _kind_and_name(spec)
            registry = _REGISTRIES[kind]
            if any(name in r.builtin for r in _REGISTRIES.values()) or name in registry.installed():
                owner = registry.plugin_origin(name) or "ebsim"
                raise ConfigError(f"{spec} is called {name!r}, which exists already (from {owner}): rename it")
            if made.setdefault((kind, name), spec) != spec:
                raise ConfigError(f"{spec} and {made[kind, name]} are both called {name!r}: rename one")
        except plugins.NotRun:
            continue
        except ConfigError as error:
            yield str(error)
            continue
        registry.register(name, spec)


def _kind_and_name(spec: str) -> tuple[str, str]:
    if ".py:" not in spec:
        raise ConfigError(f'precision plug-in {spec!r}: write "path/to/file.py:NAME"')
    made = plugins.load_file(spec)
    if isinstance(made, NumberFormat):
        return "formats", made.name
    if isinstance(made, Backend):
        return "backends", made.name
    if isinstance(made, Mapping):
        return "backends", spec.rpartition(":")[2]
    raise ConfigError(f"{spec} is a {type(made).__name__}, neither a NumberFormat nor a Backend")
