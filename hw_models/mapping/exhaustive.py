"""Reuse by exhaustive search over tile sizes and loop orders, level by level.

The tiles of a level are the outer extents divided by powers of two along g1, g2 and red; a tile fits if the
operands that the memory holds, with the exact margin of overlapping windows, do. Of all that fit only the
largest matter: every cost falls with a larger tile. For each, the three loop orders that differ (which of X,
Y, sums stays while the innermost loop runs) are priced with the profile's own energies, and the array is
mapped inside the tile by `hw_models.mapping.closed_form.on_array`. With several memories the outermost is cut first and
the best few tiles are cut again (a beam; with one memory the search is exhaustive).

Everything is flat numpy over (distinct layer and pass) x (tile): ResNet-50 takes 10 to 150 ms.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from hw_models.accelerator.description import Accelerator, Memory
from hw_models.mapping.closed_form import on_array
from hw_models.mapping.deduplicate import Ints, distinct, join, pick, spread
from hw_models.mapping.spatial import grid, inner_capacity
from hw_models.mapping.traffic import OPERANDS, Grid, Lengths, Mapped, Traffic, Widths, edge_pj, traffic
from hw_models.workload.shapes import Array
from hw_models.workload.training_passes import Passes

BEAM = 32  # tiles of an outer memory that are cut further
LAST = 120  # tiles of the innermost memory whose mapping onto the array is worked out


@dataclass(frozen=True)
class _Tiles:
    """Candidates: the problem each belongs to, its extents, and what its outer boundaries move."""

    problem: Ints
    size: Lengths
    beyond: Lengths  # how long an operand lasts that is kept whole further in; `size` where it is held here
    moved: tuple[Traffic, ...]  # outermost boundary first
    cost: Array  # pJ so far
    rank: Array  # pJ so far, with what passes by: the order in which tiles are kept


def search(p: Passes, bits: Widths, chip: Accelerator) -> Mapped:
    """The best mapping found, arrays like those of `Passes`."""
    chosen, at_array, inverse = _solve(p, bits, chip)

    def spread_traffic(t: Traffic) -> Traffic:
        return Traffic(*(spread(getattr(t, f.name), p, inverse) for f in fields(Traffic)))

    return Mapped(tuple(spread_traffic(t) for t in (at_array, *chosen.moved[::-1])))


def best_tiles(p: Passes, bits: Widths, chip: Accelerator) -> Lengths:
    """The extents of the innermost memory's tiles in the mapping that `search` finds."""
    chosen, _, inverse = _solve(p, bits, chip)
    return Lengths(*(spread(getattr(chosen.size, f.name), p, inverse) for f in fields(Lengths)))


def _solve(p: Passes, bits: Widths, chip: Accelerator) -> tuple[_Tiles, Traffic, Ints]:
    """The best tiles of each distinct problem, what crosses the array's edge, and which problem each row is."""
    flat, widths, inverse = distinct(p, bits)
    count = flat.macs.size
    whole = Lengths(flat.g1, flat.g2, flat.red)
    tiles = _Tiles(np.arange(count), whole, whole, (), np.zeros(count), np.zeros(count))
    outer = dict.fromkeys(OPERANDS, (chip.dram.value, chip.dram.value))
    parallel = _grid(flat, chip)
    least = Lengths(parallel.u1, parallel.u2, parallel.ur)
    for depth, memory in enumerate(reversed(chip.memories)):
        tiles = _cut(flat, widths, tiles, memory, outer, pick(least, tiles.problem), inner_capacity(chip, memory))
        outer |= dict.fromkeys(memory.holds, (memory.read.value, memory.write.value))
        tiles = pick(tiles, _best(tiles, BEAM if depth + 1 < len(chip.memories) else LAST))
    if chip.kind == "device":
        tiles = pick(tiles, _best(tiles, 1))
        return tiles, tiles.moved[-1], inverse
    q, w = pick(flat, tiles.problem), pick(widths, tiles.problem)
    inside = tiles.size
    parallel = _grid(replace(q, g1=inside.r1, g2=inside.r2, red=inside.rr), chip)
    moved = traffic(q, w, on_array(q, w, parallel, inside, chip.supply, tiles.beyond), 1.0)
    chosen = _best(replace(tiles, rank=tiles.cost + edge_pj(moved, chip.supply)), 1)
    return pick(tiles, chosen), pick(moved, chosen), inverse


def _grid(tile: Passes, chip: Accelerator) -> Grid:
    """The array's parallel work inside each tile; `index` says which pass, so what the dimensions unroll."""
    three = [np.stack([a] * 3) for a in (tile.g1, tile.g2, tile.red)]
    every = grid(replace(tile, g1=three[0], g2=three[1], red=three[2]), chip)
    take = tile.index, np.arange(tile.index.size)
    return replace(every, u1=every.u1[take], u2=every.u2[take], ur=every.ur[take])


def _cut(
    flat: Passes,
    widths: Widths,
    tiles: _Tiles,
    memory: Memory,
    outer_cost: dict[str, tuple[float, float]],
    least: Lengths,
    room: Array,
) -> _Tiles:
    """All largest tiles that fit into `memory`, in the three loop orders, with the traffic they cause.

    In each order one operand stays while the innermost loop runs; if its tile is the whole outer block, it
    stays as long as that block did. What the memory does not hold stays if it is kept whole further in: if it
    can be is estimated for the order of the candidates (`room`) and settled by the inner levels (`beyond`).
    """
    q, w = pick(flat, tiles.problem), pick(widths, tiles.problem)
    row, size = _largest(q, w, tiles.size, memory, least)
    q, w = pick(q, row), pick(w, row)
    outer, beyond = pick(tiles.size, row), pick(tiles.beyond, row)
    windows = _windows(q, size, outer, memory.slides)
    full = [np.isclose(getattr(size, n), getattr(outer, n), rtol=1e-9) for n in ("r1", "r2", "rr")]
    tile_bits = _bits(q, w, size)
    own, longest, ranked = [], [], []
    for i, (lacks, a, b) in enumerate((("r2", 0, 2), ("r1", 1, 2), ("rr", 0, 1))):  # X, Y, sums
        own.append(getattr(size, lacks))
        longest.append(np.where(full[a] & full[b], getattr(beyond, lacks), getattr(outer, lacks)))
        kept = (tile_bits[i] <= room[i, q.index]) | (OPERANDS[i] in memory.holds)
        ranked.append(np.where(kept, longest[i], own[i]))
    held = np.array([[name in memory.holds] for name in OPERANDS])
    orders = []
    for i in range(3):
        lengths = [ranked[j] if i == j else own[j] for j in range(3)]
        lasting = [longest[j] if i == j and not held[j, 0] else own[j] for j in range(3)]
        moved = traffic(q, w, Lengths(lengths[1], lengths[0], lengths[2]), windows[i])
        pj = np.array(_pj(moved, memory, outer_cost))
        cost = tiles.cost[row] + (pj * held).sum(axis=0)
        orders.append(
            _Tiles(
                tiles.problem[row],
                size,
                Lengths(lasting[1], lasting[0], lasting[2]),
                (*(pick(t, row) for t in tiles.moved), moved),
                cost,
                cost + (pj * ~held).sum(axis=0),
            )
        )
    every = join(orders)
    if held.all():  # nothing further in depends on the order
        cheapest = np.argmin(every.rank.reshape(3, -1), axis=0)
        every = pick(every, cheapest * row.size + np.arange(row.size))
    return every


def _windows(q: Passes, size: Lengths, outer: Lengths, slides: bool) -> tuple[Array, Array, Array]:
    """Window reuse of X in the orders in which X, Y, sums stay.

    Pixels advance over fixed channels if theirs is the innermost loop, or the next one around the tile of X.
    """
    backward = q.index == 2  # in the weight gradient the pixels are the reduction
    pixels, other = np.where(backward, size.rr, size.r1), np.where(backward, size.r1, size.rr)
    still = pixels * other / np.maximum(q.halo.elements(pixels, other), 1e-9)
    if not slides:
        return still, still, still
    within = np.where(backward, outer.rr, outer.r1)
    walking = within * other / np.maximum(q.halo.walked(pixels, within, other), 1e-9)
    return walking, np.where(backward, still, walking), np.where(backward, walking, still)


def _largest(q: Passes, w: Widths, outer: Lengths, memory: Memory, least: Lengths) -> tuple[Ints, Lengths]:
    """The largest tiles that fit, and the row of `outer` that each divides.

    First all halvings of the three extents; then each of the largest is stretched along one index at a time to
    what the memory still takes, in whole fractions of the extent (so that no tile is a small remainder).
    """
    extents, floors = (outer.r1, outer.r2, outer.rr), (least.r1, least.r2, least.rr)
    halvings = [int(np.ceil(np.log2(float(np.max(s / f))) - 1e-9)) + 1 for s, f in zip(extents, floors, strict=True)]
    a1, a2, ar = (
        np.maximum(s.reshape(-1, 1) * 2.0 ** -np.arange(n), f.reshape(-1, 1))
        for s, f, n in zip(extents, floors, halvings, strict=True)
    )
    every = np.s_[:, None, None, None]
    cube = Lengths(a1[:, :, None, None], a2[:, None, :, None], ar[:, None, None, :])
    fits = np.broadcast_to(
        sum(_used(pick(q, every), pick(w, every), cube, memory)) <= memory.bits, (len(a1), *halvings)
    ).copy()
    least1, least2, leastr = (cut <= floor.reshape(-1, 1) for cut, floor in zip((a1, a2, ar), floors, strict=True))
    fits |= least1[:, :, None, None] & least2[:, None, :, None] & leastr[:, None, None, :]  # always runs
    room = np.ones_like(fits)  # every doubling still fits
    room[:, 1:] &= fits[:, :-1]
    room[:, :, 1:] &= fits[:, :, :-1]
    room[:, :, :, 1:] &= fits[:, :, :, :-1]
    room[:, 0, 0, 0] = False
    for axis, cut in enumerate((a1, a2, ar), 1):  # halvings that reached their floor repeat themselves
        new = np.ones_like(cut, dtype=bool)
        new[:, 1:] = cut[:, 1:] < cut[:, :-1]
        fits &= np.expand_dims(new, tuple({1, 2, 3} - {axis}))
    row, i, j, k = np.nonzero(fits & ~room)
    size = Lengths(a1[row, i], a2[row, j], ar[row, k])
    x, y, z = _used(pick(q, row), pick(w, row), size, memory)
    full = pick(outer, row)

    def stretched(extent: Array, now: Array, grows: Array, rest: Array) -> Array:
        factor = np.maximum((memory.bits - rest) / np.maximum(grows, 1e-9), 1.0)
        return extent / np.ceil(np.maximum(extent / (now * factor), 1.0) - 1e-9)

    variants = [
        size,
        Lengths(stretched(full.r1, size.r1, x + z, y), size.r2, size.rr),
        Lengths(size.r1, stretched(full.r2, size.r2, y + z, x), size.rr),
        Lengths(size.r1, size.r2, stretched(full.rr, size.rr, x + y, z)),
    ]
    better = [
        np.ones(row.size, dtype=bool),
        *(getattr(v, n) > getattr(size, n) for v, n in zip(variants[1:], ("r1", "r2", "rr"), strict=True)),
    ]
    return (
        np.concatenate([row[b] for b in better]),
        Lengths(
            *(
                np.concatenate([getattr(v, f.name)[b] for v, b in zip(variants, better, strict=True)])
                for f in fields(Lengths)
            )
        ),
    )


def _used(q: Passes, w: Widths, size: Lengths, memory: Memory) -> tuple[Array, Array, Array]:
    """Bits of X, Y and sums of a tile in `memory`; 0 for what it does not hold."""
    x, y, z = (used * (name in memory.holds) for name, used in zip(OPERANDS, _bits(q, w, size), strict=True))
    return x, y, z


def _bits(q: Passes, w: Widths, size: Lengths) -> tuple[Array, Array, Array]:
    """Bits of X, Y and sums of a tile."""
    return _x_tile(q, size.r1, size.rr) * w.x, size.r2 * size.rr * w.y, size.r1 * size.r2 * w.acc


def _pj(t: Traffic, memory: Memory, outer: dict[str, tuple[float, float]]) -> list[Array]:
    """pJ of X, Y and sums between `memory` and what holds each outside; what it does not hold only leaves there."""
    costs = []
    none = np.zeros_like(t.z)
    for name, inwards, outwards in zip(OPERANDS, (t.x, t.y, t.spill), (none, none, t.z + t.spill), strict=True):
        read, write = (memory.read.value, memory.write.value) if name in memory.holds else (0.0, 0.0)
        costs.append(inwards * (outer[name][0] + write) + outwards * (outer[name][1] + read))
    return costs


def _x_tile(q: Passes, t1: Array, tr: Array) -> Array:
    """X elements of a tile: in the weight gradient (index 2) the pixels are the reduction."""
    weight_gradient = q.index == 2
    return q.halo.elements(np.where(weight_gradient, tr, t1), np.where(weight_gradient, t1, tr))


def _best(tiles: _Tiles, keep: int) -> Ints:
    """Positions of the `keep` cheapest candidates of each problem, in order of the problems."""
    volume = tiles.size.r1 * tiles.size.r2 * tiles.size.rr  # of equal tiles the larger leaves more to the array
    order = np.lexsort((-volume, np.round(tiles.rank, 3), tiles.problem))
    problem = tiles.problem[order]
    first = np.flatnonzero(np.r_[True, problem[1:] != problem[:-1]])
    rank = np.arange(problem.size) - np.repeat(first, np.diff(np.r_[first, problem.size]))
    return order[rank < keep]
