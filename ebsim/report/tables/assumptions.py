"""Table of the accelerator constants that priced a run, each with unit, band and source.

Those of the accelerator, and those of the multiplications of the rows that it does not state: the law gives these.
Keys are those of the costs and sensitivities. Degrades with grace: a copy that this version of `hw_models` does not
accept any more costs the section, not the report, and the reason is shown in its place.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ebsim.errors import DamagedError
from ebsim.report.display.table import Column, Table
from ebsim.report.display.text import plain
from ebsim.report.display.value import Value
from ebsim.runs.load import Run
from hw_models.workload.layer import CONTRACTIONS

if TYPE_CHECKING:
    from hw_models.accelerator.constant import Number


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
        numbers = chip.constants | _multiplied(run)
    except (ValueError, OSError) as error:
        return Assumptions(problem=plain(error))
    from hw_models.units import unit

    found = tuple(
        Constant(plain(key), number.value, unit(key), number.band, number.derived, plain(number.source))
        for key, number in numbers.items()
    )
    return Assumptions(found, plain(f"{chip.summary}. {chip.source}"), chip.digest)


def _multiplied(run: Run) -> dict[str, Number]:
    """Energies of the multiplications in the ledgers, by the keys of the costs."""
    from hw_models.precision.formats import mac_key, parse_precision

    found: dict[str, Number] = {}
    for entry in (entry for row in run.rows for entry in row.ledger):
        try:
            layers = [layer for layer in run.networks[entry.network] if layer["kind"] in CONTRACTIONS]
            names = [layer["name"] for layer in layers]
            weighted = [layer["name"] for layer in layers if layer["kind"] != "matmul"]
        except (KeyError, TypeError) as error:
            where = f"{run.path / 'networks.json'}: {entry.network}"
            raise DamagedError(f"{where}: not a layer table ({error}).") from error
        for x, y in parse_precision(entry.precision).on(weighted).multiplied(names):
            found.setdefault(mac_key(x, y), run.chip.mac(x, y, hypothetical=True))
    return found


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
