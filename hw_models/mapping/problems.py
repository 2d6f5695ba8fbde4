"""Inputs of the mapping search: the distinct contractions with their loops, and the accelerator's memories."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hw_models.accelerator.description import OPERANDS, Accelerator
from hw_models.mapping.deduplicate import Bools, Ints, distinct
from hw_models.mapping.spatial import units
from hw_models.mapping.traffic import Widths
from hw_models.precision.formats import PASSES
from hw_models.workload.shapes import Array
from hw_models.workload.training_passes import FILTERS, LOOPS, PIXELS, WINDOW, Passes

MOST_NESTINGS = 6
Three = tuple[float, ...]  # of X, Y and sums


@dataclass(frozen=True)
class Problems:
    """Distinct contractions, arrays [problem]: what `search` works on.

    `loops` [7, problem]: iterations of N P Q C R S K (of the input gradient: N H W, filters, taps met, 1, channels).
    `window_first`: the window indexes the sums (weight gradient), not the pixels. `scale`, `margin`, `limit`
    [2, problem]: rows of X under a tile of t pixel rows with the whole window: min(scale t + margin, limit).
    `strides`: the same of a part of the window: min(stride, taps) t + max(taps - stride, 0); 0 where it is not cut.
    """

    loops: Array
    groups: Array
    window_first: Bools
    scale: Array
    margin: Array
    limit: Array
    strides: Array
    unit: Array  # [7, problem] iterations that the array does at once
    merged: Array  # [2, problem]: of pixels as one index, of the window as one
    which: Ints  # 0 forward, 1 input gradient, 2 weight gradient
    y_scale: Array  # elements of Y per product of its loops: more than 1 where taps are an average
    x: Array  # bits per element
    y: Array
    z: Array
    acc: Array


@dataclass(frozen=True)
class Store:
    """A memory as the search sees it: capacity in bits; pJ per bit of X, Y and sums from outside to here and back (0
    for what it does not hold), whether it holds each, and whether X slides.
    """

    bits: float
    inward: Three
    outward: Three
    holds: tuple[bool, ...]
    slides: bool
    passing: Three  # pJ per bit of what it does not hold, 0 for the rest
    room: Array  # elements of X, Y, sums that find room further in, [3, problem]
    stays: Ints | None = None  # the operand that must stay, [problem], -1: any
    order: Array | None = None  # place of each loop in the order that must be, 0 outermost, [7, problem], -1: any
    fixed: bool = False  # whether the profile fixes anything, here or elsewhere


@dataclass(frozen=True)
class Registers:
    """Words that one multiplier keeps of X, Y, sums, [3, problem]; pJ per bit into and out of the array."""

    words: Array
    inward: Three
    outward: Three
    stays: Ints | None = None  # the operand that must stay, [problem], -1: any


def volumes(q: Problems, row: Ints) -> tuple[Array, Array]:
    """Elements of Y and Z (per group), [row, 1, 1]."""
    pixels, window = q.loops[PIXELS, row].prod(axis=0), q.loops[WINDOW, row].prod(axis=0)
    k, first = q.loops[FILTERS, row], q.window_first[row]
    y, z = k * q.y_scale[row] * np.where(first, pixels, window), k * np.where(first, window, pixels)
    return y[:, None, None], z[:, None, None]


def problems(p: Passes, bits: Widths, chip: Accelerator) -> tuple[Problems, Ints]:
    """Each different (layer shape, pass, widths) that does something once, and which of them each row is."""
    shape = p.macs.shape
    which = np.broadcast_to(np.arange(3).reshape(3, *(1,) * (p.macs.ndim - 1)), shape)
    u = units(p, chip.dims, chip.unroll)
    h = p.halo
    columns = [
        *p.loops,
        p.groups,
        which,
        *h.scale,
        *h.margin,
        *h.limit,
        *p.strides,
        *u.loops,
        *u.merged,
        p.y / p.groups / np.maximum(p.g2 * p.red, 1e-9),
        bits.x,
        bits.y,
        bits.z,
        bits.acc,
    ]
    table, inverse = distinct([np.broadcast_to(c, shape)[p.macs > 0] for c in columns])
    loops, groups, kind, scale, margin, limit, strides, unit, merged, scales, widths = (
        table[a:b]
        for a, b in (
            (0, 7),
            (7, 8),
            (8, 9),
            (9, 11),
            (11, 13),
            (13, 15),
            (15, 17),
            (17, 24),
            (24, 26),
            (26, 27),
            (27, 31),
        )
    )
    return Problems(
        loops,
        groups[0],
        kind[0] == 2,
        scale,
        margin,
        limit,
        strides,
        unit,
        merged,
        kind[0].astype(np.int64),
        scales[0],
        *widths,
    ), inverse


def nestings(chip: Accelerator) -> list[tuple[int, ...]]:
    """Orders in which the chip's memories may be nested, innermost first: those side by side lie either way round."""
    found = [tuple(range(len(chip.memories)))]
    for order in found:
        for i in range(len(order) - 1):
            if not set(chip.memories[order[i]].holds) & set(chip.memories[order[i + 1]].holds):
                other = (*order[:i], order[i + 1], order[i], *order[i + 2 :])
                if other not in found and len(found) < MOST_NESTINGS:
                    found.append(other)
    return found


def machine(chip: Accelerator, q: Problems, order: tuple[int, ...] | None = None) -> tuple[list[Store], Registers]:
    """The chip's memories from the outermost inwards, and its registers, as the search sees them.

    `order`: of the memories, innermost first, if not the chip's own.
    """
    memories = [chip.memories[i] for i in order] if order else list(chip.memories)
    words = (
        np.stack(
            [
                np.maximum(np.floor(r.bits / w), 1.0)
                for r, w in zip(chip.registers.values(), (q.x, q.y, q.acc), strict=True)
            ]
        )
        if chip.registers
        else np.ones((3, q.groups.size))
    )
    unit = q.unit
    pixels, window = unit[PIXELS].prod(axis=0) * q.merged[0], unit[WINDOW].prod(axis=0) * q.merged[1]
    one, red = np.where(q.window_first, window, pixels), np.where(q.window_first, pixels, window)
    inside = words * np.stack([pixels * window, unit[FILTERS] * red, unit[FILTERS] * one])
    outer = dict.fromkeys(OPERANDS, (chip.dram_read.value, chip.dram_write.value))
    stores = []
    for i, m in reversed(list(enumerate(memories))):
        holds = tuple(o in m.holds for o in OPERANDS)
        further = np.array([max((n.bits for n in memories[:i] if o in n.holds), default=0.0) for o in OPERANDS])
        stores.append(
            Store(
                m.tile_bits,
                tuple((outer[o][0] + m.write.value) * h for o, h in zip(OPERANDS, holds, strict=True)),
                tuple((outer[o][1] + m.read.value) * h for o, h in zip(OPERANDS, holds, strict=True)),
                holds,
                m.slides,
                tuple(outer[o][0] * (not h) for o, h in zip(OPERANDS, holds, strict=True)),
                np.maximum(inside, further[:, None] / np.stack([q.x, q.y, q.acc])),
                *_dataflow(chip, m.name, q),
                bool(chip.dataflow),
            )
        )
        outer |= dict.fromkeys(m.holds, (m.read.value, m.write.value))
    network = chip.network.value if chip.network is not None else 0.0
    return stores, Registers(
        words,
        tuple(outer[o][0] + network for o in OPERANDS),
        tuple(outer[o][1] + network for o in OPERANDS),
        _dataflow(chip, "registers", q)[0],
    )


def _dataflow(chip: Accelerator, level: str, q: Problems) -> tuple[Ints | None, Array | None]:
    """What the profile fixes at a level: the operand that stays, and the order of loops, of each problem."""
    stays, order = np.full(3, -1), np.full((7, 3), -1.0)
    for i, which in enumerate(PASSES):
        fixed = chip.dataflow.get(which, {}).get(level)
        if isinstance(fixed, str):
            stays[i] = OPERANDS.index(fixed)
        elif fixed:
            for place, loop in enumerate(fixed):
                order[LOOPS[which][loop], i] = place
    return (
        stays[q.which] if (stays >= 0).any() else None,
        order[:, q.which] if (order >= 0).any() else None,
    )
