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

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hw_models.workload.training_passes import Array, Passes

T = TypeVar("T", bound=Any)
Costs = tuple[float, float, float]  # pJ per bit of X, Y and sums
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
        return Traffic(
            other.x if x else self.x,
            other.y if y else self.y,
            other.z if z else self.z,
            other.spill if z else self.spill,
        )


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
    return Traffic(
        np.maximum(p.macs * bits.x / (window * r.r2), p.x * bits.x),
        np.maximum(p.macs * bits.y / r.r1, p.y * bits.y),
        p.z * bits.z,
        np.maximum(p.macs / r.rr - p.z, 0.0) * bits.acc,
    )


def whole(p: Passes) -> Lengths:
    """The reuse lengths of a memory that holds everything."""
    return Lengths(p.g1, p.g2, p.red)


def keep(p: Passes, bits: Widths, outer: Lengths, rooms: Sequence[Array | float], least: Lengths) -> Lengths:
    """The cheapest block of a memory that may keep X, Y or sums in `rooms` bits.

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
    return choose(stacked, traffic(p, bits, stacked, w).total)


def _split(
    area: Array, ratio: Array, limits: tuple[Array, Array], other_limits: tuple[Array, Array]
) -> tuple[Array, Array]:
    """(t, other) with t other <= area and t : other as `ratio` : 1, clamped; what one leaves the other takes."""
    t = np.clip(np.sqrt(area * ratio), *limits)
    other = np.clip(area / t, *other_limits)
    return np.clip(area / other, *limits), other


def stack(options: Sequence[T]) -> T:
    """Dataclasses of arrays -> one with a leading axis of options."""
    arrays = {f.name: np.stack(np.broadcast_arrays(*(getattr(o, f.name) for o in options))) for f in fields(options[0])}
    return type(options[0])(**arrays)


def choose(options: T, cost: Array) -> T:
    """The cheapest option of a leading axis, element by element."""
    best = np.argmin(cost, axis=0)[None]
    return type(options)(
        **{
            f.name: np.take_along_axis(np.broadcast_to(getattr(options, f.name), cost.shape), best, 0)[0]
            for f in fields(options)
        }
    )


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


# the index that each name of a profile stands for, by pass; and the one that an operand does not have
INDEX = {
    "forward": {"K": "g2", "C": "red", "pixels": "g1"},
    "input_gradient": {"C": "g2", "K": "red", "pixels": "g1"},
    "weight_gradient": {"K": "g2", "pixels": "red", "C": "g1"},
}
SHARED_INDEX = {"streaming": "g2", "held": "g1", "sums": "red"}


def edge_pj(moved: Traffic, supply: Costs) -> Array:
    """pJ of what crosses the edge of the array (`supply`: pJ per bit of X, Y and sums)."""
    return supply[0] * moved.x + supply[1] * moved.y + supply[2] * (moved.z + 2 * moved.spill)


def on_array(
    p: Passes, bits: Widths, grid: Grid, outer: Lengths, supply: Costs = (1.0, 1.0, 1.0), beyond: Lengths | None = None
) -> Lengths:
    """The reuse lengths of the cheapest mapping onto the array inside blocks of `outer`.

    One operand stays: `a` x `b` words of it in the registers of each element, the split tried in powers of
    two. The loop over one of its two indices runs innermost; the operand without that index is reused over
    it for free, the third is reused over the other index if its registers hold a word for each step.
    `beyond`: how long an operand lasts if the registers hold the whole block of it (default: as long as the block).
    """
    beyond = beyond or outer
    wx, wy, wz = (
        np.maximum(np.floor(own / width), 1.0)
        for own, width in ((grid.streaming, bits.x), (grid.held, bits.y), (grid.sums, bits.acc))
    )
    n1, n2, nr = (np.maximum(r / u, 1.0) for r, u in ((outer.r1, grid.u1), (outer.r2, grid.u2), (outer.rr, grid.ur)))
    options: list[tuple[Array, ...]] = []  # (t1, t2, tr) per element
    a, b = _register_tiles(wz, n1, n2)
    stay = np.where((a >= n1) & (b >= n2), beyond.rr / grid.ur, nr)
    options += [(_if(wy >= b, a), b, stay), (a, _if(wx >= a, b), stay)]
    a, b = _register_tiles(wy, n2, nr)
    stay = np.where((a >= n2) & (b >= nr), beyond.r1 / grid.u1, n1)
    options += [(stay, _if(wx >= b, a), b), (stay, a, _if(wz >= a, b))]
    a, b = _register_tiles(wx, n1, nr)
    stay = np.where((a >= n1) & (b >= nr), beyond.r2 / grid.u2, n2)
    options += [(_if(wy >= b, a), stay, b), (a, stay, _if(wz >= a, b))]

    def lengths(*tiles: Array) -> Sequence[Array]:
        return np.broadcast_arrays(
            *(
                np.minimum(u * t, full)
                for t, u, full in zip(
                    tiles, (grid.u1, grid.u2, grid.ur), (beyond.r1, beyond.r2, beyond.rr), strict=True
                )
            )
        )

    every = Lengths(*(np.concatenate(parts) for parts in zip(*(lengths(*o) for o in options), strict=True)))
    return choose(every, edge_pj(traffic(p, bits, every, 1.0), supply))


def _register_tiles(words: Array, most_a: Array, most_b: Array) -> tuple[Array, Array]:
    """Splits of `words` registers over two indices: [powers of two, ...]."""
    sizes = 2.0 ** np.arange(int(np.log2(np.max(words))) + 1).reshape(-1, *(1,) * words.ndim)
    a = np.minimum(np.minimum(sizes, words), most_a)
    return a, np.minimum(np.maximum(np.floor(words / a), 1.0), most_b)


def _if(holds: NDArray[np.bool_], length: Array) -> Array:
    return np.where(holds, length, 1.0)


def steps(p: Passes, grid: Grid) -> Array:
    """Cycles of the array if nothing else ever waits."""
    return p.macs / (grid.u1 * grid.u2 * grid.ur)
