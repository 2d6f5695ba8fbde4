"""Traffic of DRAM and of every buffer: bits of each operand across each boundary of the memory hierarchy.

It follows from how long each operand is reused at a level; `Mapped.to_dram` is the outermost boundary. The traffic of
BatchNorm, ReLU and other pointwise work is counted in `hw_models.cost.vector_ops`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np

from hw_models.accelerator.description import OPERANDS, Accelerator
from hw_models.workload.shapes import Array
from hw_models.workload.training_passes import Passes

T = TypeVar("T", bound=Any)

Costs = tuple[float, float, float]  # pJ per bit of X, Y and sums


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


def edge_pj(moved: Traffic, supply: Costs) -> Array:
    """pJ of what crosses the edge of the array (`supply`: pJ per bit of X, Y and sums)."""
    return supply[0] * moved.x + supply[1] * moved.y + supply[2] * (moved.z + 2 * moved.spill)


def steps(p: Passes, grid: Grid) -> Array:
    """Cycles of the array if nothing else ever waits."""
    return p.macs / (grid.u1 * grid.u2 * grid.ur)


@dataclass(frozen=True)
class Mapped:
    """Bits at each boundary, from array | first memory to last memory | DRAM (`compulsory`: DRAM only)."""

    boundaries: tuple[Traffic, ...]
    steps: Array | None = None  # of the array, if the mapping says it
    tiles: tuple[tuple[Array, ...], ...] = ()  # bits of X, Y and sums in each memory, innermost first
    runs: tuple[Array, ...] = ()  # bits of X, Y, finished Z and sums that lie together in DRAM, of the outermost tiles

    def to_dram(self, chip: Accelerator) -> Traffic:
        """What reaches DRAM: of each operand, the traffic of the outermost level that holds it."""
        passing = self.boundaries[0]
        for memory, outer in zip(chip.memories, self.boundaries[1:], strict=False):
            passing = passing.replaced(outer, memory.holds)
        return passing
