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
    Grid,
    Lengths,
    Traffic,
    Widths,
    edge_pj,
    on_array,
    traffic,
)

BEAM = 8  # tiles of an outer memory that are cut further
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Tiles:
    """Candidates: the problem each belongs to, its extents, and what its outer boundaries move."""

    problem: Ints
    size: Lengths
    moved: tuple[Traffic, ...]  # outermost boundary first
    cost: Array  # pJ so far


def search(p: Passes, bits: Widths, chip: Accelerator) -> Mapped:
    """The best mapping found, arrays like those of `Passes`."""
    flat, widths, inverse = _distinct(p, bits)
    count = flat.macs.size
    tiles = _Tiles(np.arange(count), Lengths(flat.g1, flat.g2, flat.red), (), np.zeros(count))
    outer = chip.dram.value, chip.dram.value
    for depth, memory in enumerate(reversed(chip.memories)):
        tiles = _cut(flat, widths, tiles, memory, outer)
        outer = memory.read.value, memory.write.value
        if depth + 1 < len(chip.memories):
            tiles = _take(tiles, _best(tiles, BEAM))

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
    chosen = _best(replace(tiles, cost=tiles.cost + edge_pj(moved, chip.supply)), 1)
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


def _cut(flat: Passes, widths: Widths, tiles: _Tiles, memory: Memory, outer_cost: tuple[float, float]) -> _Tiles:
    """All largest tiles that fit into `memory`, in the three loop orders, with the traffic they cause."""
    q, w = _pick(flat, tiles.problem), _pick(widths, tiles.problem)
    halvings = [int(np.ceil(np.log2(max(float(np.max(s)), 1.0)))) + 1
                for s in (tiles.size.r1, tiles.size.r2, tiles.size.rr)]
    powers = [2.0 ** -np.arange(h) for h in halvings]
    a1 = np.maximum(tiles.size.r1[:, None] * powers[0], 1.0)[:, :, None, None]
    a2 = np.maximum(tiles.size.r2[:, None] * powers[1], 1.0)[:, None, :, None]
    ar = np.maximum(tiles.size.rr[:, None] * powers[2], 1.0)[:, None, None, :]
    q4, w4 = _pick(q, np.s_[:, None, None, None]), _pick(w, np.s_[:, None, None, None])
    used = np.zeros(np.broadcast_shapes(a1.shape, a2.shape, ar.shape))
    if "streaming" in memory.holds:
        used = used + _x_tile(q4, a1, ar) * w4.x
    if "held" in memory.holds:
        used = used + a2 * ar * w4.y
    if "sums" in memory.holds:
        used = used + a1 * a2 * w4.acc
    fits = used <= memory.bits
    fits[:, -1, -1, -1] = True  # a single product always runs, however small the memory
    largest = fits.copy()
    largest[:, 1:] &= ~fits[:, :-1]
    largest[:, :, 1:] &= ~fits[:, :, :-1]
    largest[:, :, :, 1:] &= ~fits[:, :, :, :-1]
    row, i, j, k = np.nonzero(largest)
    size = Lengths(a1[row, i, 0, 0], a2[row, 0, j, 0], ar[row, 0, 0, k])
    outer = _pick(tiles.size, row)
    q, w = _pick(q, row), _pick(w, row)
    window = size.r1 * size.rr / np.maximum(_x_tile(q, size.r1, size.rr), 1e-9)
    orders = (Lengths(size.r1, outer.r2, size.rr), Lengths(outer.r1, size.r2, size.rr),
              Lengths(size.r1, size.r2, outer.rr))
    held = [name in memory.holds for name in ("streaming", "held", "sums")]
    moved = [traffic(q, w, o, window) for o in orders]
    costs = [sum(k * c for k, c in zip(held, _pj(t, memory, outer_cost), strict=True)) for t in moved]
    best = np.argmin(np.stack(costs), axis=0)
    take = np.arange(row.size)
    this = Traffic(*(np.stack([getattr(t, f.name) for t in moved])[best, take] for f in fields(Traffic)))
    before = tuple(_pick(t, row) for t in tiles.moved)
    return _Tiles(tiles.problem[row], size, (*before, this), tiles.cost[row] + np.stack(costs)[best, take])


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
    order = np.lexsort((tiles.cost, tiles.problem))
    problem = tiles.problem[order]
    first = np.flatnonzero(np.r_[True, problem[1:] != problem[:-1]])
    rank = np.arange(problem.size) - np.repeat(first, np.diff(np.r_[first, problem.size]))
    return order[rank < keep]


def _take(tiles: _Tiles, index: Ints) -> _Tiles:
    return _Tiles(tiles.problem[index], _pick(tiles.size, index),
                  tuple(_pick(t, index) for t in tiles.moved), tiles.cost[index])


def _pick(item: Any, index: Any) -> Any:
    """A dataclass of arrays, indexed field by field."""
    def pick(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(v[index] for v in value)
        return _pick(value, index) if isinstance(value, Halo) else value[index]

    return replace(item, **{f.name: pick(getattr(item, f.name)) for f in fields(item)})

