"""The precision record: what the hardware model prices, made from the table that the layers themselves execute.

It says in which format each operand enters each pass, what a layer hands on, what each quantizer really works on and
how, what the modules without products hand on, and which accumulator is declared. Layers that the table does not reach
are not among its `covered` ones and are priced in fp32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ebsim.precision.backends import Backend
from ebsim.precision.formats.builtin import FP32
from ebsim.precision.formats.number_format import Operand
from ebsim.precision.registry import backend
from hw_models.precision.record_builder import Cell, build

Cells = Mapping[tuple[str, str], Operand]


def record(
    chosen: Backend | str | Mapping[str, Any],
    names: Sequence[str] = (),
    *,
    pointwise: Mapping[str, Cells] | None = None,
    frozen: Collection[str] = (),
    optimizer: str = "sgd",
) -> dict[str, Any]:
    """The record of a backend on a network whose convolutions and Linear layers are `names`, in order; plain JSON.

    pointwise   module without products -> its cells, where it rounds
    optimizer   "sgd", "adam" or "adamw", whose states are part of the update
    frozen      layers whose weights are not trained: never rounded to the format that weights are stored in
    """
    chosen = backend(chosen)
    everywhere = tuple(rule for rule in chosen.rules if "*" in rule.layers)
    default = dataclasses.replace(chosen, rules=everywhere).cells("", [""])
    table = chosen.table(list(names))
    thin, modules = chosen.one_dimensional, pointwise or {}
    every = [thin, *(o for cells in (default, *table.values(), *modules.values()) for o in cells.values())]
    return build(
        chosen.name,
        _cells(default),
        {name: _cells(cells) for name, cells in table.items()},
        formats={o.format.name: o.format.describe() for o in every} | {"fp32": FP32.describe()},
        accumulator=chosen.accumulator,
        one_dimensional=_cell(thin),
        frozen=tuple(frozen),
        optimizer=optimizer,
        partial_sums=None if chosen.partial_sums is None else chosen.partial_sums.describe(),
        covered=None if chosen.untouched else list(names),
        pointwise={name: _cells(cells) for name, cells in modules.items()},
    )


def _cells(cells: Cells) -> dict[tuple[str, str], Cell]:
    return {key: _cell(operand) for key, operand in cells.items()}


def _cell(operand: Operand) -> Cell:
    return Cell(operand.format.name, operand.rounding, operand.format.blocked, operand.hadamard, operand.clipped)
