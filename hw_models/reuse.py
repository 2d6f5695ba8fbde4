"""How many bits cross each boundary of the memory hierarchy: reuse lengths in closed form.

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

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hw_models.passes import Array, Passes

OPERANDS = ("streaming", "held", "sums")  # X, Y, Z: the names that profiles use for them


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

    def only(self, held: tuple[str, ...]) -> Traffic:
        """The share of the operands in `held`."""
        kx, ky, kz = (float(name in held) for name in OPERANDS)
        return Traffic(self.x * kx, self.y * ky, self.z * kz, self.spill * kz)

    def replaced(self, other: Traffic, held: tuple[str, ...]) -> Traffic:
        """`other` for the operands in `held`, this for the rest."""
        x, y, z = (name in held for name in OPERANDS)
        return Traffic(other.x if x else self.x, other.y if y else self.y,
                       other.z if z else self.z, other.spill if z else self.spill)


@dataclass(frozen=True)
class Lengths:
    """Reuse lengths (r1, r2, rr) of a boundary."""

    r1: Array
    r2: Array
    rr: Array


@dataclass(frozen=True)
class Grid:
    """The array: mean parallel work along g1, g2 and red; register bits per element for X, Y and sums."""

    u1: Array
    u2: Array
    ur: Array
    streaming: float
    held: float
    sums: float


def compulsory(p: Passes, bits: Widths) -> Traffic:
    """Every operand crosses exactly once: the least that any mapping can do."""
    return Traffic(p.x * bits.x, p.y * bits.y, p.z * bits.z, np.zeros_like(p.macs))


def no_reuse(p: Passes, bits: Widths) -> Traffic:
    """Every multiply-accumulate fetches both operands and its sum: the most that a mapping can do."""
    return Traffic(p.macs * bits.x, p.macs * bits.y, p.z * bits.z, (p.macs - p.z) * bits.acc)


def traffic(p: Passes, bits: Widths, r: Lengths, window: Array | float) -> Traffic:
    """Bits that a boundary with these reuse lengths moves; never less than once per element."""
    return Traffic(np.maximum(p.macs * bits.x / (window * r.r2), p.x * bits.x),
                   np.maximum(p.macs * bits.y / r.r1, p.y * bits.y), p.z * bits.z,
                   np.maximum(p.macs / r.rr - p.z, 0.0) * bits.acc)


def whole(p: Passes) -> Lengths:
    """The reuse lengths of a memory that holds everything."""
    return Lengths(p.g1, p.g2, p.red)


def keep(p: Passes, bits: Widths, outer: Lengths, capacity: Array | float,
         held: tuple[str, ...] = OPERANDS) -> Lengths:
    """The cheapest block in a memory of `capacity` bits that may keep the operands in `held`."""
    w = p.window
    options = []
    if "sums" in held:
        t2, t1 = _split(capacity / bits.acc, bits.x / (w * bits.y), outer.r2, outer.r1)
        options.append(Lengths(t1, t2, outer.rr))
    if "held" in held:  # a spilled sum moves twice
        t2, tr = _split(capacity / bits.y, bits.x / (2 * w * bits.acc), outer.r2, outer.rr)
        options.append(Lengths(outer.r1, t2, tr))
    if "streaming" in held:
        t1, tr = _split(capacity * w / bits.x, bits.y / (2 * bits.acc), outer.r1, outer.rr)
        options.append(Lengths(t1, outer.r2, tr))
    return _cheapest(options, lambda o: traffic(p, bits, o, w).total)


def _split(area: Array, ratio: Array, most: Array, most_other: Array) -> tuple[Array, Array]:
    """(t, other) with t other <= area and t : other as `ratio` : 1, both clamped; what one leaves the other takes."""
    area = np.maximum(area, 1.0)
    t = np.clip(np.sqrt(area * ratio), 1.0, np.minimum(most, area))
    other = np.minimum(area / t, most_other)
    return np.maximum(np.minimum(area / other, most), 1.0), np.maximum(other, 1.0)


def _cheapest(options: list[Lengths], cost: Callable[[Lengths], Array]) -> Lengths:
    best = options[0]
    least = cost(best)
    for option in options[1:]:
        total = cost(option)
        better = total < least
        least = np.where(better, total, least)
        best = Lengths(np.where(better, option.r1, best.r1), np.where(better, option.r2, best.r2),
                       np.where(better, option.rr, best.rr))
    return best


def unrolled(p: Passes, dims: tuple[int, ...], unroll: dict[str, tuple[str, ...]],
             registers: tuple[float, float, float]) -> Grid:
    """Mean parallel work along each index: an index of 40 on 32 rows takes two steps of 20.

    "K", "C" and "pixels" are the names of `hw_models.passes`: K is g2 forward, C its reduction, and so on.
    """
    sizes = {"g1": p.g1, "g2": p.g2, "red": p.red}
    used = {name: np.ones_like(p.g1) for name in sizes}
    for i, (names, index) in enumerate(zip(unroll.values(), _INDEX, strict=True)):
        for dim, name in zip(dims, names, strict=True):
            used[index[name]][i] *= dim
    u1, u2, ur = (sizes[n] / np.ceil(sizes[n] / used[n] - 1e-9) for n in ("g1", "g2", "red"))
    return Grid(u1, u2, ur, *registers)


_INDEX = ({"K": "g2", "C": "red", "pixels": "g1"}, {"C": "g2", "K": "red", "pixels": "g1"},
          {"K": "g2", "pixels": "red", "C": "g1"})


def on_array(p: Passes, bits: Widths, grid: Grid, outer: Lengths,
             weights: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Lengths:
    """The cheapest reuse lengths at the edge of the array, by bits times the pJ in `weights` (X, Y, sums).

    One operand stays in the registers (t words of it, the split tried in powers of two); of the other two
    either both find a register for their partner, or only one does.
    """
    words = [np.maximum(np.floor(bits_per_pe / width), 1.0) for bits_per_pe, width in
             ((grid.streaming, bits.x), (grid.held, bits.y), (grid.sums, bits.acc))]
    wx, wy, wz = words
    n1, n2, nr = (np.maximum(r / u, 1.0) for r, u in
                  ((outer.r1, grid.u1), (outer.r2, grid.u2), (outer.rr, grid.ur)))
    one = np.ones_like(n1)
    options = []

    def add(t1: Array | None, t2: Array | None, tr: Array | None) -> None:
        r1 = outer.r1 if t1 is None else np.minimum(grid.u1 * t1, outer.r1)
        r2 = outer.r2 if t2 is None else np.minimum(grid.u2 * t2, outer.r2)
        rr = outer.rr if tr is None else np.minimum(grid.ur * tr, outer.rr)
        options.append(Lengths(r1, r2, rr))

    for kept, n_a, n_b, w_a, w_b, place in (
            (wz, n1, n2, wx, wy, lambda a, b: add(a, b, None)),
            (wy, n2, nr, wz, wx, lambda a, b: add(None, a, b)),
            (wx, n1, nr, wz, wy, lambda a, b: add(a, None, b))):
        size = 1.0
        while size <= np.max(kept):
            a = np.minimum(np.minimum(size, kept), n_a)
            b = np.minimum(np.maximum(np.floor(kept / a), 1.0), n_b)
            both = (w_a >= a) | (w_b >= b)
            place(a, np.where(both, b, one))
            if not np.all(both):
                place(np.where(both, a, one), b)
            size *= 2
    ex, ey, ez = weights

    def cost(o: Lengths) -> Array:
        t = traffic(p, bits, o, 1.0)
        return ex * t.x + ey * t.y + ez * (t.z + 2 * t.spill)

    return _cheapest(options, cost)


def steps(p: Passes, grid: Grid) -> Array:
    """Cycles of the array if nothing else ever waits."""
    return p.macs / (grid.u1 * grid.u2 * grid.ur)
