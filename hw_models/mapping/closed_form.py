"""Reuse model `closed`: bits across each boundary of the memory hierarchy, from reuse lengths in closed form.

A contraction Z[g1, g2] += X[g1, red] Y[red, g2] is cut into nested blocks, one size per boundary. What a
boundary moves follows from three *reuse lengths* (r1, r2, rr), the extent of each index that is worked
through before an operand has to be fetched again:

    X moves MACs b_x / (w r2)      Y moves MACs b_y / r1      sums are visited MACs / rr times

(w: reuse of X through overlapping windows; visits beyond the first of a sum are spills, written and read
again at accumulator width). A memory of M bits keeps one operand's block while the others pass by:

    keep sums   (t1, t2, rr')   t1 t2 b_acc   <= M        (r1', r2', rr') are the lengths of the
    keep Y      (r1', t2, tr)   t2 tr b_y     <= M        next outer boundary: nothing lasts longer
    keep X      (t1, r2', tr)   t1 tr b_x / w <= M        than the block it lies in

The best split of M is the square-root rule, clamped; the cheapest of the three is taken. Without clamping
"keep sums" gives the lower bound of Chen et al. (HPCA 2020), 2 MACs / sqrt(w M) + Z. On the array the
same three choices exist with parallel elements and their registers in the place of M.

Sizes are continuous, so traffic never rises with a larger memory and never falls with more bits.
All arguments broadcast as numpy arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hw_models.accelerator.description import OPERANDS, Accelerator
from hw_models.mapping.spatial import grid, inner_capacity
from hw_models.mapping.traffic import (
    Costs,
    Grid,
    Lengths,
    Mapped,
    Widths,
    choose,
    edge_pj,
    stack,
    traffic,
    whole,
)
from hw_models.precision.formats import PASSES
from hw_models.workload.shapes import Array
from hw_models.workload.training_passes import LOOPS, SHARED_INDEX, Passes, index_of

Capacities = tuple[Array | float, ...] | None  # bits of each memory, instead of the chip's own


def closed(p: Passes, bits: Widths, chip: Accelerator, capacities: Capacities = None) -> Mapped:
    """The closed formulas; `capacities` (bits, may be arrays) replace those of the chip's memories."""
    return by_lengths(p, bits, chip, reuse_lengths(p, bits, chip, capacities))


def reuse_lengths(p: Passes, bits: Widths, chip: Accelerator, capacities: Capacities = None) -> tuple[Lengths, ...]:
    """The reuse lengths at each boundary, innermost first: of the array (unless a device), then of each memory."""
    length, found = whole(p), []
    parallel = grid(p, chip)
    least = Lengths(parallel.u1, parallel.u2, parallel.ur)
    sizes = capacities or tuple(m.bits for m in chip.memories)
    for memory, size in zip(reversed(chip.memories), reversed(sizes), strict=True):
        inside = inner_capacity(chip, memory).reshape(3, 3, *(1,) * (p.macs.ndim - 1)) if len(memory.holds) < 3 else ()
        rooms = [size if name in memory.holds else inside[i] for i, name in enumerate(OPERANDS)]
        length = keep(p, bits, length, rooms, least, staying(p, chip, memory.name))
        found.append(length)
    if chip.kind == "array":
        found.append(on_array(p, bits, parallel, length, chip.supply, staying(p, chip, "registers")))
    return tuple(found[::-1])


def by_lengths(p: Passes, bits: Widths, chip: Accelerator, lengths: Sequence[Lengths]) -> Mapped:
    """What crosses each boundary with these reuse lengths, innermost first as `reuse_lengths` gives them."""
    if chip.kind == "device":
        moved = [traffic(p, bits, r, p.window) for r in lengths]
        return Mapped((moved[0], *moved))
    edge, *memories = lengths
    return Mapped((traffic(p, bits, edge, 1.0), *(traffic(p, bits, r, p.window) for r in memories)))


def staying(p: Passes, chip: Accelerator, level: str) -> Array | None:
    """Which operand (0 X, 1 Y, 2 sums; -1 any) the profile keeps at a level, [3, ...]; of an order of loops, the one
    that its innermost loop passes by. None: nothing is fixed."""
    found = [-1] * len(PASSES)
    for i, which in enumerate(PASSES):
        fixed = chip.dataflow.get(which, {}).get(level)
        if isinstance(fixed, str):
            found[i] = OPERANDS.index(fixed)
        elif fixed:
            index = index_of(which, LOOPS[which][fixed[-1]])
            found[i] = OPERANDS.index(next(o for o in OPERANDS if SHARED_INDEX[o] == index))
    return np.array(found).reshape(3, *(1,) * (p.macs.ndim - 1)) if max(found) >= 0 else None


def keep(
    p: Passes,
    bits: Widths,
    outer: Lengths,
    rooms: Sequence[Array | float],
    least: Lengths,
    stays: Array | None = None,
) -> Lengths:
    """The cheapest block of a memory that may keep X, Y or sums in `rooms` bits; `stays`: which of them it must keep.

    For what the memory does not hold that is the room further in: it stays there while the rest streams by.
    No block is smaller than `least`, what the array works on at once: it runs however small the memory is.
    """
    w = p.window
    of_x, of_y, of_sums = rooms
    t2, t1 = _split(of_sums / bits.acc, bits.x / (w * bits.y), (least.r2, outer.r2), (least.r1, outer.r1))
    sums = Lengths(t1, t2, outer.rr)
    # a spilled sum moves twice
    t2, tr = _split(of_y / bits.y, bits.x / (2 * w * bits.acc), (least.r2, outer.r2), (least.rr, outer.rr))
    held = Lengths(outer.r1, t2, tr)
    t1, tr = _split(of_x * w / bits.x, bits.y / (2 * bits.acc), (least.r1, outer.r1), (least.rr, outer.rr))
    streaming = Lengths(t1, outer.r2, tr)
    stacked = stack([sums, held, streaming])
    return choose(stacked, _only(stays, (2, 1, 0), traffic(p, bits, stacked, w).total))


def _only(stays: Array | None, kept: tuple[int, ...], cost: Array) -> Array:
    """The cost of options that keep X, Y or sums (`kept`), infinite where another operand must stay."""
    if stays is None:
        return cost
    options = np.array(kept).reshape(-1, *(1,) * (cost.ndim - 1))
    return np.where((stays < 0) | (stays == options), cost, np.inf)


def _split(
    area: Array, ratio: Array, limits: tuple[Array, Array], other_limits: tuple[Array, Array]
) -> tuple[Array, Array]:
    """(t, other) with t other <= area and t : other as `ratio` : 1, clamped; what one leaves the other takes."""
    t = np.clip(np.sqrt(area * ratio), *limits)
    other = np.clip(area / t, *other_limits)
    return np.clip(area / other, *limits), other


def on_array(
    p: Passes,
    bits: Widths,
    grid: Grid,
    outer: Lengths,
    supply: Costs = (1.0, 1.0, 1.0),
    stays: Array | None = None,
) -> Lengths:
    """The reuse lengths of the cheapest mapping onto the array inside blocks of `outer`.

    One operand stays: `a` x `b` words of it in the registers of each element, the split tried in powers of
    two. The loop over one of its two indices runs innermost; the operand without that index is reused over
    it for free, the third is reused over the other index if its registers hold a word for each step.
    An operand is visited a whole number of times: 196 steps in registers of 64 words are 4 visits.
    """
    wx, wy, wz = (
        np.maximum(np.floor(own / width), 1.0)
        for own, width in ((grid.streaming, bits.x), (grid.held, bits.y), (grid.sums, bits.acc))
    )
    n1, n2, nr = (np.maximum(r / u, 1.0) for r, u in ((outer.r1, grid.u1), (outer.r2, grid.u2), (outer.rr, grid.ur)))
    options: list[tuple[Array, ...]] = []  # (t1, t2, tr) per element
    a, b = _register_tiles(wz, n1, n2)
    options += [(_if(wy >= b, a), b, nr), (a, _if(wx >= a, b), nr)]
    a, b = _register_tiles(wy, n2, nr)
    options += [(n1, _if(wx >= b, a), b), (n1, a, _if(wz >= a, b))]
    a, b = _register_tiles(wx, n1, nr)
    options += [(_if(wy >= b, a), n2, b), (a, n2, _if(wz >= a, b))]
    extents = ((p.g1, grid.u1, outer.r1), (p.g2, grid.u2, outer.r2), (p.red, grid.ur, outer.rr))

    def lengths(*tiles: Array) -> Sequence[Array]:
        return np.broadcast_arrays(
            *(
                np.minimum(extent / np.ceil(extent / u / t - 1e-9), block)
                for t, (extent, u, block) in zip(tiles, extents, strict=True)
            )
        )

    each = [lengths(*option) for option in options]
    every = Lengths(*(np.concatenate(parts) for parts in zip(*each, strict=True)))
    kept = tuple(o for o, way in zip((2, 2, 1, 1, 0, 0), each, strict=True) for _ in way[0])
    return choose(every, _only(stays, kept, edge_pj(traffic(p, bits, every, 1.0), supply)))


def _register_tiles(words: Array, most_a: Array, most_b: Array) -> tuple[Array, Array]:
    """Splits of `words` registers over two indices: [powers of two, ...]."""
    sizes = 2.0 ** np.arange(int(np.log2(np.max(words))) + 1).reshape(-1, *(1,) * words.ndim)
    a = np.minimum(np.minimum(sizes, words), most_a)
    return a, np.minimum(np.maximum(np.floor(words / a), 1.0), most_b)


def _if(holds: NDArray[np.bool_], length: Array) -> Array:
    return np.where(holds, length, 1.0)
