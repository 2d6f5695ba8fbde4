"""A contraction mapped onto an accelerator: what every boundary moves, by the chosen model of the ladder.

`closed` works from DRAM inwards: the block that each memory keeps bounds what the next inner one can reuse,
down to the registers of the array. `hw_models.mapping.exhaustive` gives the same answer by enumeration.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hw_models.accelerator.description import Accelerator, Memory
from hw_models.mapping.closed_form import (
    INDEX,
    OPERANDS,
    SHARED_INDEX,
    Grid,
    Lengths,
    Traffic,
    Widths,
    compulsory,
    keep,
    on_array,
    sharing,
    traffic,
    unrolled,
    whole,
)
from hw_models.workload.training_passes import Array, Passes

Capacities = tuple[Array | float, ...] | None  # bits of each memory, instead of the chip's own


@dataclass(frozen=True)
class Mapped:
    """Bits at each boundary, from array | first memory to last memory | DRAM (`compulsory`: DRAM only)."""

    boundaries: tuple[Traffic, ...]

    def to_dram(self, chip: Accelerator) -> Traffic:
        """What reaches DRAM: of each operand, the traffic of the outermost level that holds it."""
        passing = self.boundaries[0]
        for memory, outer in zip(chip.memories, self.boundaries[1:], strict=False):
            passing = passing.replaced(outer, memory.holds)
        return passing


def grid(p: Passes, chip: Accelerator) -> Grid:
    """The parallel work of the chip's array on each contraction."""
    streaming, held, sums = (r.bits for r in chip.registers.values()) if chip.registers else (0.0, 0.0, 0.0)
    return unrolled(p, chip.dims, chip.unroll, (streaming, held, sums))


def register_sharing(p: Passes, chip: Accelerator) -> tuple[Array | float, ...]:
    """Elements served by one access to the registers of X, Y and sums."""
    along = tuple(r.shared_along for r in chip.registers.values())
    return sharing(p, chip.dims, chip.unroll, along) if any(along) else (1.0, 1.0, 1.0)


def room_inside(chip: Accelerator, memory: Memory) -> Array:
    """Bits that X, Y and sums (rows) find inside `memory` in each pass: an inner memory, or all their registers."""
    inner = chip.memories[: chip.memories.index(memory)]
    room = np.zeros((3, 3))
    for i, operand in enumerate(OPERANDS):
        room[i] = max((m.bits for m in inner if operand in m.holds), default=0.0)
        if register := chip.registers.get(operand):
            for j, (names, index) in enumerate(zip(chip.unroll.values(), INDEX.values(), strict=True)):
                values = [d for d, n in zip(chip.dims, names, strict=True) if index[n] != SHARED_INDEX[operand]]
                room[i, j] = max(room[i, j], register.bits * np.prod(values))
    return room


def map_passes(p: Passes, bits: Widths, chip: Accelerator, model: str, capacities: Capacities = None) -> Mapped:
    """The mapping of every contraction by model `compulsory`, `closed` or `search`."""
    if model == "compulsory" or not p.macs.size:
        return Mapped((compulsory(p, bits),) * (1 if model == "compulsory" else 1 + len(chip.memories)))
    if model == "search":
        from hw_models.mapping.exhaustive import search

        return search(p, bits, chip)
    return closed(p, bits, chip, capacities)


def closed(p: Passes, bits: Widths, chip: Accelerator, capacities: Capacities = None) -> Mapped:
    """The closed formulas; `capacities` (bits, may be arrays) replace those of the chip's memories."""
    length, boundaries = whole(p), []
    parallel = grid(p, chip)
    least = Lengths(parallel.u1, parallel.u2, parallel.ur)
    sizes = capacities or tuple(m.bits for m in chip.memories)
    for memory, size in zip(reversed(chip.memories), reversed(sizes), strict=True):
        inside = room_inside(chip, memory).reshape(3, 3, *(1,) * (p.macs.ndim - 1)) if len(memory.holds) < 3 else ()
        rooms = [size if name in memory.holds else inside[i] for i, name in enumerate(OPERANDS)]
        length = keep(p, bits, length, rooms, least)
        boundaries.append(traffic(p, bits, length, p.window))
    if chip.kind == "device":
        return Mapped((boundaries[-1], *boundaries[::-1]))
    edge = on_array(p, bits, parallel, length, chip.supply)
    return Mapped((traffic(p, bits, edge, 1.0), *boundaries[::-1]))
