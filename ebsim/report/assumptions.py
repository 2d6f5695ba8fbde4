"""The constants of the accelerator that priced a run, each with unit, band and source, as the report lists them.

Keys are those of the costs and sensitivities. Degrades with grace: a copy that this version of `hw_models` does not
accept any more costs the section, not the report, and the reason is shown in its place.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ebsim.report.load import Run
from ebsim.report.tables import Column, Table
from ebsim.report.text import plain
from ebsim.report.units import Value

_UNITS = {
    "mac": "pJ/MAC",
    "op": "pJ/op",
    "registers": "pJ/bit",
    "network": "pJ/bit",
    "memory": "pJ/bit",
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
    digest: str = ""
    problem: str = ""


def read(run: Run) -> Assumptions:
    try:
        chip = run.chip
    except (ValueError, OSError) as error:
        return Assumptions(problem=plain(error))
    found = tuple(
        Constant(plain(key), number.value, _UNITS[key.split(".")[0]], number.band, number.derived, plain(number.source))
        for key, number in chip.constants.items()
    )
    return Assumptions(found, plain(f"{chip.summary}. {chip.source}"), chip.digest)


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
