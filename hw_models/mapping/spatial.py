"""How a contraction is spread over the array: parallel work along each index, and what registers find room for."""

from __future__ import annotations

import numpy as np

from hw_models.accelerator.description import Accelerator, Memory
from hw_models.mapping.traffic import OPERANDS, Grid
from hw_models.workload.shapes import Array
from hw_models.workload.training_passes import INDEX, SHARED_INDEX, Passes


def grid(p: Passes, chip: Accelerator) -> Grid:
    """The parallel work of the chip's array on each contraction."""
    streaming, held, sums = (r.bits for r in chip.registers.values()) if chip.registers else (0.0, 0.0, 0.0)
    return unrolled(p, chip.dims, chip.unroll, (streaming, held, sums))


def register_sharing(p: Passes, chip: Accelerator) -> tuple[Array | float, ...]:
    """Elements served by one access to the registers of X, Y and sums."""
    along = tuple(r.shared_along for r in chip.registers.values())
    return sharing(p, chip.dims, chip.unroll, along) if any(along) else (1.0, 1.0, 1.0)


def inner_capacity(chip: Accelerator, memory: Memory) -> Array:
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


def unrolled(
    p: Passes, dims: tuple[int, ...], unroll: dict[str, tuple[str, ...]], registers: tuple[float, float, float]
) -> Grid:
    """Mean parallel work along each index: an index of 40 on 32 rows takes two steps of 20.

    "K", "C", "pixels" are names of `hw_models.workload.training_passes`: K is g2 forward, C its reduction, and so on.
    """
    sizes = {"g1": p.g1, "g2": p.g2, "red": p.red}
    used = {name: np.ones_like(p.g1) for name in sizes}
    for i, (names, index) in enumerate(zip(unroll.values(), INDEX.values(), strict=True)):
        for dim, name in zip(dims, names, strict=True):
            used[index[name]][i] *= dim
    u1, u2, ur = (sizes[n] / np.ceil(sizes[n] / used[n] - 1e-9) for n in ("g1", "g2", "red"))
    return Grid(u1, u2, ur, *registers)


def sharing(
    p: Passes, dims: tuple[int, ...], unroll: dict[str, tuple[str, ...]], shared_along: tuple[tuple[int, ...], ...]
) -> tuple[Array, Array, Array]:
    """Mean number of elements that one access to a register of X, Y and sums serves (1: each has its own).

    An index of 40 along 32 elements of one register takes two accesses: 20 elements each.
    """
    grids = [
        unrolled(p, tuple(d if i in along else 1 for i, d in enumerate(dims)), unroll, (0.0, 0.0, 0.0))
        for along in shared_along
    ]
    return grids[0].u2, grids[1].u1, grids[2].ur
