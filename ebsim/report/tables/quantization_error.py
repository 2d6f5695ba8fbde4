"""Table of quantization errors: overflow, underflow and SQNR per tensor role, where the run sampled them.

The page shows the last sampled epoch of each training, the CSV every one. Shares are of the elements that were
quantized; SQNR is the power of the signal over that of the rounding error, in dB; a missing one: nothing was lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ebsim.report.display.table import NONE, Cell, Column, Table
from ebsim.report.display.text import plain
from ebsim.report.display.value import Value, percent, significant
from ebsim.report.tables.training_lines import training_lines
from ebsim.runs.load import Run
from ebsim.runs.schema import Seen


@dataclass(frozen=True)
class Observation:
    """One role in one training; `layers` as sampled, shares over all of them."""

    training: str
    epoch: int
    role: str
    layers: Mapping[str, Seen]

    def share(self, name: str) -> float:
        """Share of all elements that are `nonfinite`, `overflow` or `underflow`."""
        elements = sum(seen.count for seen in self.layers.values())
        return sum(getattr(seen, name) * seen.count for seen in self.layers.values()) / elements if elements else 0.0

    @property
    def worst(self) -> tuple[str, float] | None:
        """The layer with the lowest SQNR, and that SQNR in dB."""
        found = [(seen.sqnr_db, name) for name, seen in self.layers.items() if seen.sqnr_db is not None]
        return min(found)[::-1] if found else None


def observations(run: Run, *, every: bool = False) -> list[Observation]:
    """Those of each training's last sampled epoch, or of every sampled one."""
    out = []
    for line in training_lines(run):
        sampled = [point for point in line.points if point.precision]
        for point in sampled if every else sampled[-1:]:
            roles = dict.fromkeys(role for roles in point.precision.values() for role in roles)
            for role in roles:
                layers = {name: seen[role] for name, seen in point.precision.items() if role in seen}
                out.append(Observation(line.name, point.epoch, role, layers))
    return out


def table(found: list[Observation]) -> Table:
    def shares(name: str) -> tuple[Cell, ...]:
        return tuple((percent(one.share(name), 3),) for one in found)

    return Table(
        "precision",
        "What the quantizers saw",
        (
            Column("Training", tuple((one.training,) for one in found), numeric=False),
            Column("Epoch", tuple((Value(one.epoch, str(one.epoch)),) for one in found)),
            Column("Tensor", tuple((plain(one.role),) for one in found), numeric=False),
            Column("Saturated", shares("overflow")),
            Column("Rounded to zero", shares("underflow")),
            Column("Not finite", shares("nonfinite")),
            Column("Lowest SQNR (dB)", tuple(_decibels(one.worst) for one in found)),
            Column("in layer", tuple((plain(one.worst[0]) if one.worst else NONE,) for one in found), numeric=False),
        ),
    )


def _decibels(worst: tuple[str, float] | None) -> Cell:
    return (NONE,) if worst is None else (Value(worst[1], significant(worst[1])),)


def records(found: list[Observation]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Per layer, unrounded; the rows with layer "*" are the table's shares over all layers."""
    shares = ("overflow", "underflow", "nonfinite")
    header = ("training", "epoch", "tensor", "layer", "elements", *shares, "sqnr_db", "absmax")
    rows: list[tuple[object, ...]] = []
    for one in found:
        where = (one.training, one.epoch, one.role)
        total = sum(seen.count for seen in one.layers.values())
        lowest = one.worst[1] if one.worst else None
        rows.append((*where, "*", total, *map(one.share, shares), lowest, None))
        rows += [
            (*where, name, s.count, s.overflow, s.underflow, s.nonfinite, s.sqnr_db, s.absmax)
            for name, s in one.layers.items()
        ]
    return header, rows
