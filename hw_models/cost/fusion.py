"""Depth-first layer fusion: rows of pixels pass from one operation to the next on the chip, not through DRAM.

A stack is a run of consecutive operations (`hw_models.cost.fused_ops`) of the forward or the backward pass that leads
to one last operation; residual sums may lie inside. One image after the other runs through it row of pixels by row of
pixels, and what must be on the chip at once is

    every weight of the stack, in a backward pass the sums of their gradients too, and statistics
    a line buffer for each tensor that is read: as many rows of pixels as the window of its reader is high; where
    several operations read it, all rows from the last one's oldest to the first one's newest
    one row of pixels of what is being made, at accumulator width

If that fits, DRAM sees each tensor from outside once, weights (and their gradients) once, and of the tensors made
inside only those that something outside the stack reads, or that the backward pass needs. A BatchNorm in training
begins a stack, for its statistics are of the whole batch; but where its input (backward: its error) is made within a
stack, that stack gathers the statistics on the way out, which saves one of the two readings. The passes are cut into
stacks so that the least energy goes into DRAM.

Limits. Linear layers, concatenations, products of tensors, global pools and transposed convolutions end a stack, and so
does, in the backward pass, a tensor that more than a layer and one residual sum read. Traffic on the chip, and compute,
are those without fusion; line buffers lie beside the tiles of the layers, whose size is not cut for them. A stack has
128 operations at most. Padding costs nothing. No halo is computed twice: the rows that windows share stay in the line
buffers, whose size is charged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hw_models.accelerator.description import Accelerator
from hw_models.cost.fused_ops import Cell, Op, Read, Schedule, StepOps
from hw_models.cost.step_cost import Cost
from hw_models.errors import HardwareError
from hw_models.precision.formats import Precision
from hw_models.workload.layer import Layer
from hw_models.workload.shapes import Array

MOST_OPS = 128  # of a stack
Traffic = dict[Cell, list[float]]  # DRAM bits [read, written] by cell


@dataclass(frozen=True)
class Stack:
    """Operations that run depth-first: what they need on the chip, and the DRAM bits without and with it."""

    layers: tuple[str, ...]
    phase: str  # "forward" or "backward"
    bits_on_chip: float
    dram_before: float
    dram_after: float


def fuse(
    plain: Cost, rows: Sequence[Layer], precision: Precision, *, backward: bool = True
) -> tuple[Cost, tuple[Stack, ...]]:
    """A priced step (without `backward`, a forward pass alone) with its passes fused, and the stacks.

    `plain`: the same without fusion, of the same rows. It is returned itself where no stack fits or saves anything.
    Raises `HardwareError` for a device, whose memories are not counted, and for a chip whose memories keep no weights.
    """
    chip = plain.chip
    if plain.model == "macs":  # has no traffic
        return plain, ()
    room = _Room(chip)
    dram = _read_and_written(plain)
    step = StepOps(rows, precision, plain.batch, backward)
    stacks: list[Stack] = []
    for phase, schedule in (("forward", step.forward()), *((("backward", step.backward()),) if backward else ())):
        counted = {t: s for t, s in schedule.statistics.items() if s.bits <= dram[0][s.cell]}  # not if "bn" is free
        cuts = _Cutter(replace(schedule, statistics=counted), room, dram, chip).best()
        stacks += [cut.stack(phase, dram) for cut in cuts]
        for cut in cuts:
            cut.book(dram)
        for cut in cuts:  # afterwards: the reading that is saved may be another stack's
            for (stage, i), bits in cut.saved.items():
                dram[0, stage, i] -= bits
    return (_with(plain, dram), tuple(stacks)) if stacks else (plain, ())


class _Room:
    """What the memories on the chip hold: rows of pixels and weights, in one memory or in two."""

    def __init__(self, chip: Accelerator) -> None:
        if chip.kind != "array":
            raise HardwareError(f"{chip.name} is a device: what stays on the chip is inside its measured energies")
        of_weights = [m.bits for m in chip.memories if "held" in m.holds]
        of_pixels = [m.bits for m in chip.memories if {"streaming", "sums"} <= set(m.holds)]
        if not of_weights or not of_pixels:
            raise HardwareError(
                f"{chip.name}: no memory on the chip keeps weights, or none keeps activations and sums; "
                "nothing can be fused"
            )
        outer = max(chip.memories, key=lambda m: m.bits)
        self.shared = set(outer.holds) == {"streaming", "held", "sums"}
        self.pixels, self.weights = (outer.bits,) * 2 if self.shared else (max(of_pixels), max(of_weights))

    def holds(self, pixels: float, weights: float) -> bool:
        return pixels + weights <= self.pixels if self.shared else pixels <= self.pixels and weights <= self.weights


@dataclass(frozen=True)
class _Cut:
    """A stack as it is booked: its new traffic, and what the statistics that it gathers save elsewhere."""

    ops: tuple[Op, ...]
    on_chip: float
    after: Traffic
    saved: dict[Cell, float]

    def book(self, dram: Array) -> None:
        """Write its traffic into [read or written, pass, row]."""
        if len(self.ops) > 1:
            for (stage, i), (read, written) in _within(self.after, dram).items():
                dram[:, stage, i] = read, written

    def stack(self, phase: str, dram: Array) -> Stack:
        """What it was before; `dram` as it was without any stack."""
        own = [float(dram[:, stage, i].sum()) for stage, i in self.after]
        after = sum(own) if len(self.ops) == 1 else sum(sum(bits) for bits in self.after.values())
        names = tuple(op.name for op in self.ops)
        return Stack(names, phase, self.on_chip, sum(own) + sum(self.saved.values()), after)


def _within(after: Traffic, dram: Array) -> Traffic:
    """The same traffic, no row of the stack with more than it had: what goes over is booked where there is room."""
    out = {cell: list(bits) for cell, bits in after.items()}
    for side in (0, 1):
        over = 0.0
        for cell, bits in out.items():
            most = float(dram[side, cell[0], cell[1]])
            over += max(bits[side] - most, 0.0)
            bits[side] = min(bits[side], most)
        for cell, bits in out.items():
            more = min(over, float(dram[side, cell[0], cell[1]]) - bits[side])
            bits[side] += more
            over -= more
        next(iter(out.values()))[side] += over
    return out


class _Cutter:
    """Cuts a schedule into stacks so that the least energy goes into DRAM."""

    def __init__(self, schedule: Schedule, room: _Room, dram: Array, chip: Accelerator) -> None:
        self.schedule, self.room, self.dram = schedule, room, dram
        self.pj = chip.dram_read.value, chip.dram_write.value
        self.apart = chip.dram_writes is not None  # else all traffic is booked as read

    def best(self) -> list[_Cut]:
        """By dynamic programming: the best cut up to each operation ends in one of the stacks that end there."""
        ops = self.schedule.ops
        saved = [0.0] * (len(ops) + 1)
        choice: list[tuple[int, float]] = [(0, 0.0)] * (len(ops) + 1)
        for end in range(1, len(ops) + 1):
            saved[end], choice[end] = saved[end - 1], (end - 1, 0.0)
            for start, gain, on_chip in self._ending(end):
                if saved[start] + gain > saved[end] + 1e-9:
                    saved[end], choice[end] = saved[start] + gain, (start, on_chip)
        found = []
        end = len(ops)
        while end:
            start, on_chip = choice[end]
            if on_chip:
                found.append(self._cut([op for op in ops[start:end] if op is not None], on_chip))
            end = start
        return found[::-1]

    def _ending(self, end: int) -> Iterator[tuple[int, float, float]]:
        """(start, pJ of DRAM saved, bits on the chip) of the stacks that end before operation `end`, shortest first."""
        stack = _Growing(self.schedule, self._before, self.pj)
        for start in range(end - 1, max(end - 1 - MOST_OPS, -1), -1):
            op = self.schedule.ops[start]
            if op is None or not stack.add(op) or not self.room.holds(stack.pixels, stack.weights):
                return  # a longer stack needs more
            if stack.whole and (stack.size > 1 or stack.gathered):
                yield start, stack.gain, stack.pixels + stack.weights

    def _before(self, cell: Cell) -> float:
        """pJ of DRAM without fusion."""
        stage, i = cell
        return float(self.dram[0, stage, i]) * self.pj[0] + float(self.dram[1, stage, i]) * self.pj[1]

    def _cut(self, stack: Sequence[Op], on_chip: float) -> _Cut:
        """The stack's traffic, cell by cell."""
        made = {op.made for op in stack if op.made}
        statistics = [self.schedule.statistics[t] for t in made if t in self.schedule.statistics]
        after: Traffic = {cell: [0.0, 0.0] for op in stack for cell in op.cells}
        inside = Counter(tensor for op in stack for tensor in {read.tensor for read in op.reads})
        outside: dict[str, Read] = {}
        for op in stack:
            for cell, bits in op.loaded.items():
                after[cell][0] += bits
            for cell, bits in op.stored.items():
                after[cell][1] += bits
            for read in op.reads:
                known = outside.get(read.tensor)
                if read.tensor not in made and (known is None or read.bits > known.bits):
                    outside[read.tensor] = read
            if _leaves(op, self.schedule, inside[op.made]):
                after[op.cell][1] += op.bits
        for read in outside.values():
            after[read.cell][0] += read.bits
        if not self.apart:
            after = {cell: [read + written, 0.0] for cell, (read, written) in after.items()}
        return _Cut(tuple(stack), on_chip, after, {s.cell: s.bits for s in statistics})


def _leaves(op: Op, schedule: Schedule, inside: int) -> bool:
    """Whether what an operation makes must go to DRAM although `inside` operations of its stack read it."""
    who = schedule.readers.get(op.made, 0)
    return bool(op.made) and (op.kept or who == 0 or who > inside)


class _Growing:
    """A stack that grows at its front: what it needs on the chip, and the pJ of DRAM that it saves.

    `whole`: every operation leads to the last one.
    """

    def __init__(self, schedule: Schedule, before: Callable[[Cell], float], pj: tuple[float, float]) -> None:
        self.schedule, self.before, self.pj = schedule, before, pj
        self.whole, self.gathered, self.size = True, False, 0
        self.pixels = self.weights = self.gain = self._making = 0.0
        self._newest: dict[str, Array] = {}  # tensor -> its newest row at each step, as far as the stack asks for it
        self._readers: dict[str, list[tuple[Read, Array]]] = {}
        self._lines: dict[str, float] = {}
        self._fetched: dict[str, float] = {}  # pJ of each tensor from outside
        self._awaited: set[str] = set()

    def add(self, op: Op) -> bool:
        """Put an operation in front; False if another one would have to wait for all that it makes."""
        if op.made in self._awaited:
            return False
        if self.size == 0:
            own = np.arange(op.rows, dtype=float)
            self._steps = len(own)
        elif op.made in self._newest:
            own = self._newest[op.made]
        else:
            self.whole, own = False, np.linspace(0, op.rows - 1, self._steps).round()
        self.size += 1
        self._awaited |= {op.waits} if op.waits else set()
        for read in op.reads:
            newest = np.clip(read.newest(own), 0, read.rows - 1)
            now = self._newest.get(read.tensor)
            self._newest[read.tensor] = newest if now is None else np.maximum(now, newest)
            self._readers.setdefault(read.tensor, []).append((read, own))
            self._lines[read.tensor] = self._held(read.tensor)
        self._making = max(self._making, op.row_bits)
        self.pixels = sum(self._lines.values()) + self._making
        statistic = self.schedule.statistics.get(op.made)
        self.weights += op.weights + (statistic.on_chip if statistic else 0.0)
        self._save(op)
        if statistic:
            self.gathered = True
            self.gain += statistic.bits * self.pj[0]
        return True

    def _save(self, op: Op) -> None:
        """The energy of DRAM before and after, as far as this operation changes it."""
        inside = len({id(read) for read, _ in self._readers.get(op.made, [])})
        self.gain += sum(self.before(cell) for cell in op.cells) + self._fetched.pop(op.made, 0.0)
        self.gain -= sum(op.loaded.values()) * self.pj[0] + sum(op.stored.values()) * self.pj[1]
        self.gain -= op.bits * self.pj[1] * _leaves(op, self.schedule, inside)
        for read in op.reads:
            known = self._fetched.get(read.tensor, 0.0)
            self._fetched[read.tensor] = max(known, read.bits * self.pj[0])
            self.gain -= self._fetched[read.tensor] - known

    def _held(self, tensor: str) -> float:
        """Bits of the rows of a tensor that are on the chip at once."""
        who = self._readers[tensor]
        high = max(min(read.window, read.rows) for read, _ in who)
        if len(who) > 1:
            oldest = np.min([_next(read, own) for read, own in who], axis=0)
            high = int(max(high, (self._newest[tensor] - oldest + 1).max()))
        return max(read.row_bits for read, _ in who) * min(high, who[0][0].rows)


def _next(read: Read, own: Array) -> Array:
    """The oldest row that an operation will still need at the beginning of each step."""
    done = np.concatenate([[-1.0], own[:-1]])
    return np.clip(read.oldest(done + 1), 0, None)


def _read_and_written(cost: Cost) -> Array:
    """DRAM bits [read or written, pass, row]; all as read where a profile has one energy for both."""
    read = {p.key for p in cost.parts if p.component == "dram"} - {"dram.write"}
    out = np.zeros((2, *cost.dram_bits.shape))
    for part in cost.parts:
        if part.component == "dram":
            out[0 if part.key in read else 1, : part.counts.shape[0]] += part.counts
    return out


def _with(plain: Cost, dram: Array) -> Cost:
    """The cost with other DRAM traffic; time and static energy follow."""
    moved = dram.sum(axis=0)
    limits = plain.row_limits.copy()
    limits[2] = moved / plain.chip.dram_bits_per_s
    seconds = plain.row_seconds - plain.row_limits.max(axis=0) + limits.max(axis=0)
    shorter = np.divide(seconds, plain.row_seconds, out=np.ones_like(seconds), where=plain.row_seconds > 0)
    parts = []
    for part in plain.parts:
        depth = part.counts.shape[0]
        if part.component == "dram":
            part = replace(part, counts=dram[1 if part.key == "dram.write" else 0, :depth])
        elif part.component == "static":
            factor = shorter[:depth]
            part = replace(part, counts=part.counts * (factor if part.index is None else factor[..., part.index]))
        parts.append(part)
    cost = replace(plain, parts=tuple(parts), dram_bits=moved, row_limits=limits, row_seconds=seconds)
    cost.check()
    return cost
