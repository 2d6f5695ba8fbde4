"""The precision record: what the hardware model prices.

It says, per pass, in which format each operand enters the arithmetic; which roles a quantizer really works
on and how; which accumulator is declared. It is made from the table that the layers themselves execute.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ebsim.precision.backends import PASSES, Backend
from ebsim.precision.formats.builtin import FP32
from ebsim.precision.formats.number_format import Operand
from ebsim.precision.registry import backend

Cells = Mapping[tuple[str, str], Operand]
GEMMS = ("forward", "input_gradient", "weight_gradient")


def operand_names(cells: Cells, phase: str) -> dict[str, str]:
    """Role -> name of the format that enters this pass. A weight kept in a format is on its grid in every pass."""
    found = {}
    for role in PASSES[phase]:
        chosen = cells[phase, role]
        if role == "weight" and chosen.untouched:
            chosen = cells["update", "stored"]
        if role != "output":
            found[role] = chosen.format.name
    return found


def _entry(cells: Cells, accumulator: str) -> dict[str, Any]:
    entry: dict[str, Any] = {phase: operand_names(cells, phase) for phase in GEMMS}
    plain = {name for phase in GEMMS for name in entry[phase].values()} == {"fp32"}
    entry["accumulator"] = "fp32" if plain else accumulator
    entry["output"] = cells["forward", "output"].format.name
    return entry


def _rounded(tables: Iterable[Cells]) -> dict[str, str]:
    """Role -> rounding, of the roles a quantizer works on in any of these tables (stochastic where any is)."""
    found: dict[str, str] = {}
    for cells in tables:
        for (_, role), o in cells.items():
            if not o.untouched and found.get(role) != "stochastic":
                found[role] = o.rounding
    return found


def record(chosen: Backend | str | Mapping[str, Any], names: Sequence[str] = ()) -> dict[str, Any]:
    """The record of a backend on a network whose Conv2d and Linear layers are `names`, in order; plain JSON."""
    chosen = backend(chosen)
    default = dataclasses.replace(chosen, rules=()).cells("", [""])
    table = chosen.table(list(names))
    everything = [default, *table.values()]
    update, rounded = operand_names(default, "update"), _rounded(everything)
    layers: dict[str, Any] = {}
    for name, cells in table.items():
        entry = _entry(cells, chosen.accumulator)
        if (own := operand_names(cells, "update")) != update:
            entry["update"] = own
        if (own := _rounded([cells])) != rounded:
            entry["quantise"] = own
        if entry != _entry(default, chosen.accumulator):
            layers[name] = entry
    thin = chosen.one_dimensional
    operands = [o for cells in everything for o in cells.values()] + [thin]
    used = {o.format.name: o.format for o in operands} | {"fp32": FP32}
    return {
        "schema": 1,
        "name": chosen.name,
        "formats": {name: used[name].describe() for name in sorted(used)},
        "default": _entry(default, chosen.accumulator),
        "layers": layers,
        "update": update | {"one_dimensional": thin.format.name},
        "quantise": rounded,
    }
