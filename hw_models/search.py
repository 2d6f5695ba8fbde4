"""Reuse by exhaustive search over tile sizes and loop orders, level by level.

The tiles of a level are the outer extents divided by powers of two along g1, g2 and red; a tile fits if the
operands that the memory holds, with the exact margin of overlapping windows, do. Of all that fit only the
largest matter: every cost falls with a larger tile. For each, the three loop orders that differ (which of X,
Y, sums stays while the innermost loop runs) are priced with the profile's own energies, and the array is
mapped inside the tile by `hw_models.reuse.on_array`. With several memories the outermost is cut first and
the best few tiles are cut again (a beam; with one memory the search is exhaustive).

Everything is flat numpy over (distinct layer and pass) x (tile): ResNet-50 takes about 0.1 s.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_models.accelerator import Accelerator, Memory
from hw_models.mapping import Mapped, grid
from hw_models.passes import Array, Halo, Passes
from hw_models.reuse import (
    OPERANDS,
    Grid,
    Lengths,
    Traffic,
    Widths,
    edge_pj,
    on_array,
    traffic,
)

BEAM = 8  # tiles of an outer memory that are cut further
LAST = 32  # tiles of the innermost memory whose mapping onto the array is worked out
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Tiles:
    """Candidates: the problem each belongs to, its extents, and what its outer boundaries move."""

    problem: Ints
    size: Lengths
    moved: tuple[Traffic, ...]  # outermost boundary first
    cost: Array  # pJ so far
    rank: Array  # pJ so far, with what passes by: the order in which tiles are kept


def search(p: Passes, bits: Widths, chip: Accelerator) -> Mapped:
    """The best mapping found, arrays like those of `Passes`."""
    flat, widths, inverse = _distinct(p, bits)
    count = flat.macs.size
    tiles = _Tiles(np.arange(count), Lengths(flat.g1, flat.g2, flat.red), (), np.zeros(count), np.zeros(count))
    outer = chip.dram.value, chip.dram.value
    parallel = _grid(flat, chip)
    least = Lengths(parallel.u1, parallel.u2, parallel.ur)
    for depth, memory in enumerate(reversed(chip.memories)):
        tiles = _cut(flat, widths, tiles, memory, outer, _pick(least, tiles.problem))
        outer = memory.read.value, memory.write.value
        tiles = _take(tiles, _best(tiles, BEAM if depth + 1 < len(chip.memories) else LAST))

    def spread(values: Array) -> Array:
        out = np.zeros(p.macs.shape)
        out[p.macs > 0] = values[inverse]
        return out

    def spread_traffic(t: Traffic) -> Traffic:
        return Traffic(*(spread(getattr(t, f.name)) for f in fields(Traffic)))

    if chip.kind == "device":
        found = [spread_traffic(t) for t in _take(tiles, _best(tiles, 1)).moved[::-1]]
        return Mapped((found[0], *found))
    q, w = _pick(flat, tiles.problem), _pick(widths, tiles.problem)
    inside = tiles.size
    parallel = _grid(replace(q, g1=inside.r1, g2=inside.r2, red=inside.rr), chip)
    moved = traffic(q, w, on_array(q, w, parallel, inside, chip.supply), 1.0)
    chosen = _best(replace(tiles, rank=tiles.cost + edge_pj(moved, chip.supply)), 1)
    return Mapped(tuple(spread_traffic(_pick(t, chosen)) for t in (moved, *tiles.moved[::-1])))


def _grid(tile: Passes, chip: Accelerator) -> Grid:
    """The array's parallel work inside each tile; `index` says which pass, so what the dimensions unroll."""
    three = [np.stack([a] * 3) for a in (tile.g1, tile.g2, tile.red)]
    every = grid(replace(tile, g1=three[0], g2=three[1], red=three[2]), chip)
    take = tile.index, np.arange(tile.index.size)
    return replace(every, u1=every.u1[take], u2=every.u2[take], ur=every.ur[take])


def _distinct(p: Passes, bits: Widths) -> tuple[Passes, Widths, Ints]:
    """Each different (layer shape, pass, widths) once, flat; `index` is then the pass. Idle rows are dropped."""
    shape = p.macs.shape
    which = np.broadcast_to(np.arange(3).reshape(3, *(1,) * (p.macs.ndim - 1)), shape)
    h = p.halo
    parts = [p.g1, p.g2, p.red, p.groups, p.macs, p.x, p.y, p.z, p.window, bits.x, bits.y, bits.z, bits.acc, which,
             h.rows, h.cols, *h.scale, *h.margin, *h.limit, h.taps]
    table = np.stack([np.broadcast_to(a, shape)[p.macs > 0] for a in parts])
    u, inverse = np.unique(table, axis=1, return_inverse=True)
    halo = Halo(u[14], u[15], (u[16], u[17]), (u[18], u[19]), (u[20], u[21]), u[22])
    flat = Passes(u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], halo, u[13].astype(np.int64))
    return flat, Widths(u[9], u[10], u[11], u[12]), inverse.reshape(-1)


def _cut(flat: Passes, widths: Widths, tiles: _Tiles, memory: Memory, outer_cost: tuple[float, float],
         least: Lengths) -> _Tiles:
    """All largest tiles that fit into `memory`, in the three loop orders, with the traffic they cause."""
    q, w = _pick(flat, tiles.problem), _pick(widths, tiles.problem)
    row, size = _largest(q, w, tiles.size, memory, least)
    q, w = _pick(q, row), _pick(w, row)
    outer = _pick(tiles.size, row)
    window = size.r1 * size.rr / np.maximum(_x_tile(q, size.r1, size.rr), 1e-9)
    stay = [o if name in memory.holds else own for name, o, own in zip(  # what is not held cannot wait here
        OPERANDS, (outer.r2, outer.r1, outer.rr), (size.r2, size.r1, size.rr), strict=True)]
    orders = (Lengths(size.r1, stay[0], size.rr), Lengths(stay[1], size.r2, size.rr),
              Lengths(size.r1, size.r2, stay[2]))
    moved = [traffic(q, w, o, window) for o in orders]
    costs = np.array([_pj(t, memory, outer_cost) for t in moved])  # [order, operand, tile]
    best = np.argmin(costs.sum(axis=1), axis=0)  # what is not held here still comes from further out
    take = np.arange(row.size)
    held = np.array([[name in memory.holds] for name in OPERANDS])
    chosen = costs[best, :, take].T
    this = Traffic(*(np.stack([getattr(t, f.name) for t in moved])[best, take] for f in fields(Traffic)))
    before = tuple(_pick(t, row) for t in tiles.moved)
    cost = tiles.cost[row] + (chosen * held).sum(axis=0)
    return _Tiles(tiles.problem[row], size, (*before, this), cost, cost + (chosen * ~held).sum(axis=0))


def _largest(q: Passes, w: Widths, outer: Lengths, memory: Memory, least: Lengths) -> tuple[Ints, Lengths]:
    """The largest tiles that fit, and the row of `outer` that each divides.

    First all halvings of the three extents; then each of the largest is stretched along one index at a time to
    what the memory still takes, in whole fractions of the extent (so that no tile is a small remainder).
    """
    extents, floors = (outer.r1, outer.r2, outer.rr), (least.r1, least.r2, least.rr)
    halvings = [int(np.ceil(np.log2(float(np.max(s / f))) - 1e-9)) + 1 for s, f in zip(extents, floors, strict=True)]
    a1, a2, ar = (np.maximum(s.reshape(-1, 1) * 2.0 ** -np.arange(n), f.reshape(-1, 1)) for s, f, n in
                  zip(extents, floors, halvings, strict=True))
    every = np.s_[:, None, None, None]
    cube = Lengths(a1[:, :, None, None], a2[:, None, :, None], ar[:, None, None, :])
    fits = np.broadcast_to(sum(_used(_pick(q, every), _pick(w, every), cube, memory)) <= memory.bits,
                           (len(a1), *halvings)).copy()
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
    x, y, z = _used(_pick(q, row), _pick(w, row), size, memory)
    full = _pick(outer, row)

    def stretched(extent: Array, now: Array, grows: Array, rest: Array) -> Array:
        factor = np.maximum((memory.bits - rest) / np.maximum(grows, 1e-9), 1.0)
        return extent / np.ceil(np.maximum(extent / (now * factor), 1.0) - 1e-9)

    variants = [size, Lengths(stretched(full.r1, size.r1, x + z, y), size.r2, size.rr),
                Lengths(size.r1, stretched(full.r2, size.r2, y + z, x), size.rr),
                Lengths(size.r1, size.r2, stretched(full.rr, size.rr, x + y, z))]
    better = [np.ones(row.size, dtype=bool), *(getattr(v, n) > getattr(size, n) for v, n in
                                                zip(variants[1:], ("r1", "r2", "rr"), strict=True))]
    return (np.concatenate([row[b] for b in better]),
            Lengths(*(np.concatenate([getattr(v, f.name)[b] for v, b in zip(variants, better, strict=True)])
                      for f in fields(Lengths))))


def _used(q: Passes, w: Widths, size: Lengths, memory: Memory) -> tuple[Array, Array, Array]:
    """Bits of X, Y and sums of a tile in `memory`; 0 for what it does not hold."""
    held = [float(name in memory.holds) for name in OPERANDS]
    return (held[0] * _x_tile(q, size.r1, size.rr) * w.x, held[1] * size.r2 * size.rr * w.y,
            held[2] * size.r1 * size.r2 * w.acc)


def _pj(t: Traffic, memory: Memory, outer: tuple[float, float]) -> tuple[Array, Array, Array]:
    """pJ of X, Y and sums crossing between `memory` and what lies outside it."""
    inward, outward = outer[0] + memory.write.value, outer[1] + memory.read.value
    return t.x * inward, t.y * inward, t.z * outward + t.spill * (inward + outward)


def _x_tile(q: Passes, t1: Array, tr: Array) -> Array:
    """X elements of a tile: in the weight gradient (index 2) the pixels are the reduction."""
    weight_gradient = (q.index == 2)
    return q.halo.elements(np.where(weight_gradient, tr, t1), np.where(weight_gradient, t1, tr))


def _best(tiles: _Tiles, keep: int) -> Ints:
    """Positions of the `keep` cheapest candidates of each problem, in order of the problems."""
    volume = tiles.size.r1 * tiles.size.r2 * tiles.size.rr  # of equal tiles the larger leaves more to the array
    order = np.lexsort((-volume, np.round(tiles.rank, 3), tiles.problem))
    problem = tiles.problem[order]
    first = np.flatnonzero(np.r_[True, problem[1:] != problem[:-1]])
    rank = np.arange(problem.size) - np.repeat(first, np.diff(np.r_[first, problem.size]))
    return order[rank < keep]


def _take(tiles: _Tiles, index: Ints) -> _Tiles:
    return _Tiles(tiles.problem[index], _pick(tiles.size, index),
                  tuple(_pick(t, index) for t in tiles.moved), tiles.cost[index], tiles.rank[index])


def _pick(item: Any, index: Any) -> Any:
    """A dataclass of arrays, indexed field by field."""
    def pick(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(v[index] for v in value)
        return _pick(value, index) if isinstance(value, Halo) else value[index]

    return replace(item, **{f.name: pick(getattr(item, f.name)) for f in fields(item)})

