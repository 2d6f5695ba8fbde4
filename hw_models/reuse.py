"""How many bits cross each boundary of the memory hierarchy: reuse as closed formulas.

A boundary has an inner side of capacity M. A contraction Z[g1, g2] += X[g1, red] Y[red, g2] (MACs = g1 g2 red)
is cut into tiles (t1, t2, tr) of which one operand stays inside while the others pass by:

    keeping sums (Z)   t1 t2 b_acc <= M :  X moves MACs b_x / (w t2),  Y moves MACs b_y / t1,  Z once
    keeping Y          t2 tr b_y   <= M :  Y once,  X moves MACs b_x / (w t2),  Z moves 2 MACs b_acc / tr
    keeping X          t1 tr b_x/w <= M :  X once,  Y moves MACs b_y / t1,      Z moves 2 MACs b_acc / tr

with w the window reuse of X. Each operand moves at least once whatever the tile; sums that leave unfinished
are written and read again at accumulator width. The best split of M is the square-root rule (t1 : t2 as
b_y : b_x / w); the cheapest of the three is taken. Without clamping, keeping sums gives the lower bound of
Chen et al. (HPCA 2020), 2 MACs / sqrt(w M) + Z. The formulas treat tile sizes as continuous, so the traffic
never rises with a larger M and never falls with more bits. All arguments broadcast as numpy arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hw_models.passes import Array, Passes


@dataclass(frozen=True)
class Widths:
    """Bits per element of X, Y, finished Z and the accumulator; arrays like those of `Passes`."""

    x: Array
    y: Array
    z: Array
    acc: Array


@dataclass(frozen=True)
class Traffic:
    """Bits that cross a boundary: X and Y inwards, finished Z outwards, spilled sums each way."""

    x: Array
    y: Array
    z: Array
    spill: Array

    @property
    def inward(self) -> Array:
        return self.x + self.y + self.spill

    @property
    def outward(self) -> Array:
        return self.z + self.spill

    @property
    def total(self) -> Array:
        return self.x + self.y + self.z + 2 * self.spill


def compulsory(p: Passes, bits: Widths) -> Traffic:
    """Every operand crosses exactly once: the least that any mapping can do."""
    return Traffic(p.x * bits.x, p.y * bits.y, p.z * bits.z, np.zeros_like(p.x))


def no_reuse(p: Passes, bits: Widths) -> Traffic:
    """Every multiply-accumulate fetches both operands and its sum: the most that a mapping can do."""
    return Traffic(p.macs * bits.x, p.macs * bits.y, p.z * bits.z, p.macs * bits.acc)


def closed(p: Passes, bits: Widths, capacity: Array | float) -> Traffic:
    """Least traffic of the three dataflows into a memory of `capacity` bits."""
    once = compulsory(p, bits)
    options = [_keep_sums(p, bits, capacity, once), _keep_y(p, bits, capacity, once),
               _keep_x(p, bits, capacity, once)]
    totals = np.stack([o.total for o in options])
    best = np.argmin(totals, axis=0)[None]
    pick = lambda name: np.take_along_axis(  # noqa: E731
        np.stack([np.broadcast_to(getattr(o, name), totals.shape[1:]) for o in options]), best, 0)[0]
    return Traffic(pick("x"), pick("y"), pick("z"), pick("spill"))


def _split(area: Array, want: Array, limit_free: Array, limit_other: Array) -> tuple[Array, Array]:
    """(free, other) with free * other <= area: `want` is the best `free`, both clamped to their limits."""
    area = np.maximum(area, 1.0)
    free = np.clip(want, 1.0, np.minimum(limit_free, area))
    other = np.minimum(area / free, limit_other)
    free = np.minimum(area / other, limit_free)  # what a small `other` leaves over
    return np.maximum(free, 1.0), np.maximum(other, 1.0)


def _keep_sums(p: Passes, bits: Widths, capacity: Array | float, once: Traffic) -> Traffic:
    area = capacity / bits.acc
    t2, t1 = _split(area, np.sqrt(area * bits.x / (p.window * bits.y)), p.g2, p.g1)
    return Traffic(np.maximum(once.x, p.macs * bits.x / (p.window * t2)),
                   np.maximum(once.y, p.macs * bits.y / t1), once.z, once.spill)


def _keep_y(p: Passes, bits: Widths, capacity: Array | float, once: Traffic) -> Traffic:
    area = capacity / bits.y
    # moving sums costs write + read; with the whole reduction inside, nothing spills
    t2, tr = _split(area, np.sqrt(area * bits.x / (p.window * 2 * bits.acc)), p.g2, p.red)
    return Traffic(np.maximum(once.x, p.macs * bits.x / (p.window * t2)), once.y, once.z,
                   p.groups * p.g1 * p.g2 * bits.acc * (p.red / tr - 1.0))


def _keep_x(p: Passes, bits: Widths, capacity: Array | float, once: Traffic) -> Traffic:
    area = capacity * p.window / bits.x
    t1, tr = _split(area, np.sqrt(area * bits.y / (2 * bits.acc)), p.g1, p.red)
    return Traffic(once.x, np.maximum(once.y, p.macs * bits.y / t1), once.z,
                   p.groups * p.g1 * p.g2 * bits.acc * (p.red / tr - 1.0))


@dataclass(frozen=True)
class Grid:
    """An array of processing elements: how far each index is unrolled, register bits per element."""

    u1: Array
    u2: Array
    ur: Array
    streaming: float
    held: float
    sums: float


def unrolled(p: Passes, dims: tuple[int, ...], unroll: dict[str, tuple[str, ...]]) -> Grid:
    """Mean parallel work along each index: an index of 40 on 32 rows takes two steps of 20.

    "K", "C" and "pixels" are the names of `hw_models.passes`: K is g2 forward, C its reduction, and so on.
    """
    where = (("K", "g2"), ("C", "red"), ("pixels", "g1")), (("C", "g2"), ("K", "red"), ("pixels", "g1")), \
            (("K", "g2"), ("pixels", "red"), ("C", "g1"))
    sizes = {"g1": p.g1, "g2": p.g2, "red": p.red}
    used = {name: np.ones_like(p.g1) for name in sizes}
    for i, (names, table) in enumerate(zip(unroll.values(), where, strict=True)):
        for dim, name in zip(dims, names, strict=True):
            index = dict(table)[name]
            used[index][i] *= dim
    parallel = [sizes[n] / np.ceil(sizes[n] / used[n] - 1e-9) for n in ("g1", "g2", "red")]
    return Grid(*parallel, 0.0, 0.0, 0.0)


def array_traffic(p: Passes, bits: Widths, grid: Grid) -> Traffic:
    """Bits between the innermost buffer and the array (registers of `streaming`, `held`, `sums` bits per PE).

    The same three dataflows on the array: X is broadcast over u2, Y over u1, sums are reduced over ur;
    registers multiply that reuse by how many words they hold of what stays.
    """
    once = compulsory(p, bits)
    rx = np.maximum(np.floor(grid.streaming / bits.x), 1.0)
    ry = np.maximum(np.floor(grid.held / bits.y), 1.0)
    rz = np.maximum(np.floor(grid.sums / bits.acc), 1.0)
    n1, n2, nr = (np.maximum(g / u, 1.0) for g, u in ((p.g1, grid.u1), (p.g2, grid.u2), (p.red, grid.ur)))
    outputs = p.groups * p.g1 * p.g2 * bits.acc
    options = []

    def option(x: Array, y: Array, tr: Array) -> None:
        spill = outputs * (p.red / np.minimum(grid.ur * tr, p.red) - 1.0)
        options.append(Traffic(np.maximum(once.x / 1.0, x), np.maximum(once.y, y), once.z, spill))

    for t2, t1 in ((np.minimum(rz, n2), 1.0), (1.0, np.minimum(rz, n1))):  # sums stay until they are finished
        option(p.macs * bits.x / (grid.u2 * t2), p.macs * bits.y / (grid.u1 * t1), nr)
    for t2, tr in ((np.minimum(rz, n2), None), (None, np.minimum(rx, nr))):  # Y stays, X passes
        if t2 is None:
            t2 = np.minimum(ry / tr, n2)
            t2 = np.maximum(t2, 1.0)
        elif tr is None:
            t2 = np.minimum(t2, ry)
            tr = np.minimum(ry / t2, nr)
        option(p.macs * bits.x / (grid.u2 * t2), once.y, tr)
    option(once.x * np.maximum(p.window, 1.0), p.macs * bits.y / grid.u1, np.minimum(rx, nr))  # X stays
    totals = np.stack([o.total for o in options])
    best = np.argmin(totals, axis=0)[None]
    pick = lambda name: np.take_along_axis(np.stack(  # noqa: E731
        [np.broadcast_to(getattr(o, name), totals.shape[1:]) for o in options]), best, 0)[0]
    return Traffic(pick("x"), pick("y"), pick("z"), pick("spill"))


def steps(p: Passes, grid: Grid) -> Array:
    """Cycles of the array if nothing else ever waits."""
    return p.macs / (grid.u1 * grid.u2 * grid.ur)
