"""Sensitivity of savings: the saving with one constant of the accelerator at either end of its band.

Energy is linear in the constants, so the saving at another value of one is exact, not a linearisation:
1 - (A + (f - 1) a) / (B + (f - 1) b), where a and b are the joules of that constant in the two rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ebsim.report.tables import row_labels
from ebsim.runs.load import Run


@dataclass(frozen=True)
class Swing:
    """A row's saving with one constant at the 5 % and at the 95 % end of its band, all others as they are."""

    row: str
    constant: str
    band: float
    saving: float
    low: float
    high: float

    @property
    def width(self) -> float:
        return abs(self.high - self.low)


@lru_cache(maxsize=8)
def swings(run: Run) -> tuple[Swing, ...]:
    """Of every row with a saving, the widest first; empty where the profile is not accepted any more."""
    import hw_models

    if run.dense is None or not run.dense.energy.joules:
        return ()
    ledgers = {name: row["ledger"] for name, row in zip(row_labels.short(run.rows), run.results["rows"], strict=True)}
    options: dict[str, Any] = {"model": run.record.reuse, "hypothetical": bool(run.record.hypothetical)}
    try:
        priced = {name: hw_models.price(own, run.networks, run.chip, **options) for name, own in ledgers.items()}
    except ValueError:
        return ()
    base = priced[row_labels.short(run.rows)[run.rows.index(run.dense)]]
    out = []
    for row, (name, one) in zip(run.rows, priced.items(), strict=True):
        if row is run.dense or row.saving_vs_dense is None:
            continue
        found = []
        for key, number in (base.numbers | one.numbers).items():
            ends = [_saving(one.by_constant, base.by_constant, key, f) for f in (1 / number.band, number.band)]
            found.append(Swing(name, key, number.band, 1 - one.joules / base.joules, *ends))
        out += sorted((swing for swing in found if swing.width), key=lambda swing: -swing.width)
    return tuple(out)


def _saving(row: Mapping[str, float], base: Mapping[str, float], key: str, factor: float) -> float:
    moved = [sum(part.values()) + (factor - 1) * part.get(key, 0.0) for part in (row, base)]
    return 1 - moved[0] / moved[1]


def records(run: Run) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    header = ("row", "constant", "band", "saving", "saving_at_low_end", "saving_at_high_end")
    return header, [(s.row, s.constant, s.band, s.saving, s.low, s.high) for s in swings(run)]
