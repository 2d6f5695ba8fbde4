"""Table of the low precisions of a run: the number format of each kind of tensor, from the record that is priced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ebsim.report.display.table import NONE, Cell, Column, Table
from ebsim.report.display.text import plain
from ebsim.runs.load import Run

# heading -> where a record keeps the format, and under which name its rounding
_PLACES = {
    "Weight": ("forward", "weight"),
    "Activation": ("forward", "activation"),
    "Error": ("input_gradient", "error"),
    "Output": (None, "output"),
    "Sums": (None, "accumulator"),
}
_UPDATE = ("gradient", "momentum", "stored")
_NAMED = 4  # layers with formats of their own that are listed by name


def records(run: Run) -> list[Mapping[str, Any]]:
    """The precision record of every low precision that a stage of this run was priced with, each once."""
    entries = (entry.precision for row in run.rows for entry in row.ledger)
    found = {record["name"]: record for record in entries if isinstance(record, dict) and record.get("default")}
    return [record for name, record in found.items() if name != "fp32"]


def table(run: Run) -> Table:
    """One row per precision."""
    made = records(run)
    columns = [Column("Precision", tuple((plain(one["name"]),) for one in made), numeric=False)]
    for heading, place in _PLACES.items():
        columns.append(Column(heading, tuple(_format(one, *place) for one in made), numeric=False))
    columns.append(Column("Gradient, momentum, stored weight", tuple(map(_update, made)), numeric=False))
    columns.append(Column("Layers that differ", tuple(map(_different, made)), numeric=False))
    return Table("precisions", "What the precisions are made of", tuple(columns), _notes(made))


def _notes(made: list[Mapping[str, Any]]) -> tuple[Cell, ...]:
    """How wide each format is and as what it is multiplied."""
    formats = {name: fmt for record in made for name, fmt in record.get("formats", {}).items()}
    return tuple(
        (f"{plain(name)}: {fmt['bits']} bits, multiplied as {plain(fmt['mac'])}.",) for name, fmt in formats.items()
    )


def _rounded(record: Mapping[str, Any], name: str, role: str) -> str:
    stochastic = name != "fp32" and record.get("quantise", {}).get(role) == "stochastic"
    return plain(f"{name} stochastic" if stochastic else name)


def _format(record: Mapping[str, Any], phase: str | None, role: str) -> Cell:
    default = record["default"]
    return (_rounded(record, (default[phase] if phase else default)[role], role),)


def _update(record: Mapping[str, Any]) -> Cell:
    update = record.get("update", {})
    return (", ".join(dict.fromkeys(_rounded(record, update.get(role, "fp32"), role) for role in _UPDATE)),)


def _different(record: Mapping[str, Any]) -> Cell:
    names = [plain(name) for name in record.get("layers", {})]
    more = f", … ({len(names)} in all)" if len(names) > _NAMED else ""
    return (", ".join(names[:_NAMED]) + more,) if names else (NONE,)
