"""Spatial mapping: a contraction unrolled over the array, parallel work along each index, capacity of the registers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hw_models.accelerator.description import OPERANDS, Accelerator, Axis, Memory
from hw_models.mapping.traffic import Grid
from hw_models.workload.shapes import Array
from hw_models.workload.training_passes import FILTERS, PIXELS, SHARED_INDEX, WINDOW, Passes, index_of, loops_of


@dataclass(frozen=True)
class Units:
    """Iterations that the array does at once: of each loop [7, 3, ..., contraction], of all pixels or the whole window
    as one index [2, 3, ..., contraction]."""

    loops: Array
    merged: Array


def units(p: Passes, dims: tuple[int, ...], unroll: Mapping[str, tuple[Axis, ...]]) -> Units:
    """What an array of `dims` does at once. Of several loops on one dimension the first goes as far as it lasts."""
    loops, merged = np.ones_like(p.loops), np.ones((2, *p.g1.shape))
    for i, (which, axes) in enumerate(unroll.items()):
        for dim, axis in zip(dims, axes, strict=True):
            left = np.full(p.g1.shape[1:], float(dim))
            found = loops_of(which, axis)
            for places in found:
                if len(places) > 1:
                    merged[0 if places[0] < 3 else 1, i] *= left
                elif len(found) == 1:
                    loops[places[0], i] *= left
                else:
                    here = np.minimum(left, np.ceil(p.loops[places[0], i] / loops[places[0], i]))
                    loops[places[0], i] *= here
                    left = np.floor(left / here)
    return Units(loops, merged)


def whole_steps(iterations: Array, at_once: Array) -> Array:
    """How many steps iterations take, rounded up; an average of taps, which nothing unrolls, stays as it is."""
    return np.where(at_once > 1, np.ceil(iterations / at_once - 1e-9), iterations)


def trips(p: Passes, u: Units) -> tuple[Array, Array, Array]:
    """Steps of the array along g1, g2 and the reduction: whole numbers, [3, ..., contraction] each."""
    steps = whole_steps(p.loops, u.loops)
    pixels = whole_steps(steps[PIXELS].prod(axis=0), u.merged[0])
    window = whole_steps(steps[WINDOW].prod(axis=0), u.merged[1])
    backward = np.arange(3).reshape(3, *(1,) * (pixels.ndim - 1)) == 2
    return np.where(backward, window, pixels), steps[FILTERS], np.where(backward, pixels, window)


def grid(p: Passes, chip: Accelerator) -> Grid:
    """The parallel work of the chip's array on each contraction."""
    streaming, held, sums = (r.bits for r in chip.registers.values()) if chip.registers else (0.0, 0.0, 0.0)
    return unrolled(p, chip.dims, chip.unroll, (streaming, held, sums))


def register_sharing(p: Passes, chip: Accelerator) -> tuple[Array | float, ...]:
    """Elements served by one access to the registers of X, Y and sums."""
    along = tuple(r.shared_along for r in chip.registers.values())
    return sharing(p, chip.dims, chip.unroll, along) if any(along) else (1.0, 1.0, 1.0)


def inner_capacity(chip: Accelerator, memory: Memory) -> Array:
    """Bits that X, Y and sums (rows) have inside `memory` in each pass: of an inner memory, or of all registers."""
    inner = chip.memories[: chip.memories.index(memory)]
    room = np.zeros((3, 3))
    for i, operand in enumerate(OPERANDS):
        room[i] = max((m.bits for m in inner if operand in m.holds), default=0.0)
        if register := chip.registers.get(operand):
            for j, (which, axes) in enumerate(chip.unroll.items()):
                values = [
                    d
                    for d, axis in zip(chip.dims, axes, strict=True)
                    if any(index_of(which, g[0]) != SHARED_INDEX[operand] for g in loops_of(which, axis))
                ]
                room[i, j] = max(room[i, j], register.bits * np.prod(values))
    return room


def unrolled(
    p: Passes,
    dims: tuple[int, ...],
    unroll: Mapping[str, tuple[Axis, ...]],
    registers: tuple[float, float, float],
) -> Grid:
    """Mean parallel work along each index: an index of 40 on 32 rows takes two steps of 20."""
    n1, n2, nr = trips(p, units(p, dims, unroll))
    return Grid(p.g1 / n1, p.g2 / n2, p.red / nr, *registers)


def sharing(
    p: Passes, dims: tuple[int, ...], unroll: Mapping[str, tuple[Axis, ...]], shared_along: tuple[tuple[int, ...], ...]
) -> tuple[Array, Array, Array]:
    """Mean number of elements that one access to a register of X, Y and sums serves (1: each has its own).

    An index of 40 along 32 elements of one register takes two accesses: 20 elements each.
    """
    grids = [
        unrolled(p, tuple(d if i in along else 1 for i, d in enumerate(dims)), unroll, (0.0, 0.0, 0.0))
        for along in shared_along
    ]
    return grids[0].u2, grids[1].u1, grids[2].ur
