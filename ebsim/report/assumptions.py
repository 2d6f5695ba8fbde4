"""The constants of a hardware profile, each with unit, band and source, as the report lists them.

Degrades with grace: a profile that cannot be loaded any more (a user's file that has moved) costs the section, not
the report, and the reason is shown in its place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ebsim.report.tables import Column, Table
from ebsim.report.text import plain
from ebsim.report.units import Value

_UNITS = {
    "mac_points": "pJ/MAC",
    "ops": "pJ/op",
    "registers": "pJ/bit",
    "network": "pJ/bit",
    "memories": "pJ/bit",
    "dram": "pJ/bit",
    "static": "W",
}


@dataclass(frozen=True)
class Constant:
    key: str
    value: float
    unit: str
    band: float
    """Factor x/÷ of the 90 % interval."""
    derived: bool
    source: str


@dataclass(frozen=True)
class Assumptions:
    """What the energies rest on; `problem` says why there are none."""

    constants: tuple[Constant, ...] = ()
    summary: str = ""
    problem: str = ""


def read(profile: str) -> Assumptions:
    import hw_models

    try:
        chip = hw_models.load(profile)
    except (ValueError, OSError) as error:
        return Assumptions(problem=plain(error))
    found = tuple(
        Constant(plain(key), number.value, _UNITS[key.split(".")[0]], number.band, number.derived, plain(number.source))
        for field in _UNITS
        for key, number in _numbers(field, getattr(chip, field))
    )
    return Assumptions(found, plain(f"{chip.summary}. {chip.source}"))


def _numbers(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every constant below `value` that carries a source, with its dotted key."""
    if hasattr(value, "band") and hasattr(value, "source"):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _numbers(f"{key}.{name}", inner)
    elif isinstance(value, tuple):
        for inner in value:
            yield from _numbers(f"{key}.{getattr(inner, 'name', '')}", inner)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _numbers(f"{key}.{field.name}", getattr(value, field.name))


def table(assumptions: Assumptions) -> Table:
    rows = assumptions.constants
    return Table(
        "assumptions",
        "Constants of the hardware profile",
        (
            Column("Constant", tuple((one.key,) for one in rows), numeric=False),
            Column("Value", tuple((Value(one.value, f"{one.value:.4g}"),) for one in rows)),
            Column("Unit", tuple((one.unit,) for one in rows), numeric=False),
            Column("Band ×/÷", tuple((Value(one.band, f"{one.band:.3g}"),) for one in rows)),
            Column(
                "Source", tuple((("derived: " if one.derived else "") + one.source,) for one in rows), numeric=False
            ),
        ),
    )


def records(assumptions: Assumptions) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    header = tuple(field.name for field in dataclasses.fields(Constant))
    return header, [dataclasses.astuple(one) for one in assumptions.constants]
