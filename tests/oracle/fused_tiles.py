"""Layer fusion by trying everything: every cut of a pass into stacks, every tile height, each run row by row.

Slow and obvious, and written from the layer table alone. An operation lists the rows that each of its rows reads, tap
by tap. A stack is run: rows of its last operation are asked for, a tile at a time; what is missing is made or fetched;
a row is dropped when no operation of the stack will read it again. What was fetched and written, and the most rows of
each tensor that were held at once, are counted in elements. The best cut moves least among those whose stacks fit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import ceil, log2

from hw_models import Layer


@dataclass(frozen=True)
class Input:
    tensor: str
    rows: int
    row: float  # elements of a row that are fetched
    needs: Callable[[int], set[int]]  # row of the operation -> rows of the tensor


@dataclass(frozen=True)
class Step:
    """One operation: forward of a layer, or its backward pass. Elements of one image, but for weights."""

    name: str
    inputs: tuple[Input, ...]
    made: str
    rows: int
    row: float
    resident: float = 0.0  # weights, their gradients, sums of statistics
    weights: float = 0.0  # moved once for the whole batch
    more: float = 0.0  # moved for each image, fused or not
    waits: str = ""
    kept: bool = False
    alone: float = 0.0  # elements that it moves for each image when nothing is fused
    statistic: str = ""  # tensor whose sums a maker could gather
    gathered: float = 0.0  # elements of it, and what whoever gathers them holds
    gathering: float = 0.0


@dataclass
class Run:
    moved: float = 0.0
    most: float = 0.0
    held: dict[str, set[int]] = field(default_factory=dict)


def forward(rows: Sequence[Layer], *, training: bool) -> list[Step | None]:
    kept = _kept(rows) if training else set()
    return [_forward(row, row.name in kept, training) for row in rows]


def _forward(row: Layer, kept: bool, training: bool) -> Step | None:
    c, k, (h, w), (p, q) = row.channels[0], row.channels[1], row.size, row.out
    high, s, pad = row.kernel[0], row.stride[0], _pad(row)
    source = row.sources[0]

    def window(i: int) -> set[int]:
        return {r for t in range(high) if 0 <= (r := i * s - pad + t) < h}

    if row.kind == "conv":
        seen = min(w, q * high)
        weights = k * c * high**2
        read = c * min(h, p * high) * seen
        return Step(row.name, (Input(source, h, c * seen, window),), row.name, p, k * q, weights, weights,
                    kept=kept, alone=read + k * p * q)  # fmt: skip
    if row.kind == "maxpool":
        index = k * p * q * ceil(log2(high**2)) / 32
        return Step(row.name, (Input(source, h, c * w, window),), row.name, p, k * q, more=index, kept=kept,
                    alone=c * h * w + k * p * q + index)  # fmt: skip
    n = k * p * q
    same = tuple(Input(t, p, k * q, lambda i: {i}) for t in row.sources)
    if row.kind == "bn" and training:
        return Step(row.name, same, row.name, p, k * q, 2 * k, more=n, waits=source, kept=kept, alone=3 * n,
                    statistic=source, gathered=n, gathering=2 * k)  # fmt: skip
    if row.kind in ("bn", "relu"):
        return Step(row.name, same, row.name, p, k * q, 2 * k * (row.kind == "bn"), kept=kept, alone=2 * n)
    if row.kind == "add":
        return Step(row.name, same, row.name, p, k * q, kept=kept, alone=3 * n)
    return None


def backward(rows: Sequence[Layer]) -> list[Step | None]:
    """In reverse. A residual sum hands its error on; where its input forked, the two gradients are summed."""
    who = {row.name: [r for r in rows if row.name in r.sources] for row in rows}
    error = {row.name: f"d {row.name}" for row in rows}
    forks = {t: r for t, r in who.items() if len(r) == 2 and r[1].kind == "add"}
    steps: list[Step | None] = []
    for row in reversed(rows):
        if row.kind == "add":
            for t in row.sources:
                if t in who and len(who[t]) == 1:
                    error[t] = error[row.name]
            continue
        source = row.sources[0]
        part = f"d {source} by {row.name}" if len(who.get(source, [])) > 1 else f"d {source}"
        if not (row.first and not row.weights):
            steps.append(_backward(row, error[row.name], part))
        for t, (reader, total) in forks.items():
            if reader is row:
                n = total.outputs
                parts = (f"d {t} by {row.name}", error[total.name])
                inputs = tuple(Input(x, total.out[0], n / total.out[0], lambda i: {i}) for x in parts)
                steps.append(Step(f"sum at {t}", inputs, f"d {t}", total.out[0], n / total.out[0], alone=3 * n))
    return steps


def _backward(row: Layer, error: str, made: str) -> Step | None:
    c, k, (h, w), (p, q) = row.channels[0], row.channels[1], row.size, row.out
    high, s, pad = row.kernel[0], row.stride[0], _pad(row)
    n, source = k * p * q, row.sources[0]

    def covering(i: int) -> set[int]:
        return {j for j in range(p) for t in range(high) if j * s - pad + t == i}

    def window(j: int) -> set[int]:
        return {r for t in range(high) if 0 <= (r := j * s - pad + t) < h}

    def under_new(i: int) -> set[int]:
        new = covering(i) - set().union(*(covering(before) for before in range(i)))
        return set().union(*(window(j) for j in new))

    if row.kind == "conv":
        seen = min(w, q * high)
        read, weights = c * min(h, p * high) * seen, k * c * high**2
        if row.first:
            inputs = (Input(error, p, k * q, lambda j: {j}), Input(source, h, c * seen, window))
            return Step(row.name, inputs, "", p, 0, weights, weights, alone=read + n)
        inputs = (Input(error, p, k * q, covering), Input(source, h, c * seen, under_new))
        return Step(row.name, inputs, made, h, c * w, 2 * weights, 2 * weights, alone=2 * n + c * h * w + read)
    plain = Input(error, p, k * q, lambda i: {i})
    if row.kind == "relu":
        return Step(row.name, (plain, Input(row.name, p, k * q, lambda i: {i})), made, p, k * q, alone=3 * n)
    if row.kind == "bn":
        return Step(row.name, (plain, Input(source, p, k * q, lambda i: {i})), "" if row.first else made, p, k * q,
                    2 * k, more=2 * n, waits=error, alone=5 * n, statistic=error, gathered=n,
                    gathering=2 * k + k * q)  # fmt: skip
    if row.kind == "maxpool":
        index = n * ceil(log2(high**2)) / 32
        return Step(row.name, (Input(error, p, k * q, covering),), made, h, c * w, more=index,
                    alone=n + c * h * w + index)  # fmt: skip
    return None


def _pad(row: Layer) -> int:
    return row.kernel[0] // 2 if row.kind == "conv" else 0


def _kept(rows: Sequence[Layer]) -> set[str]:
    out = {row.sources[0] for row in rows if row.kind in ("conv", "linear", "bn")}
    return out | {row.name for row in rows if row.kind == "relu" and not row.first}


def run(stack: Sequence[Step], readers: dict[str, int], tile: int) -> Run | None:
    """The stack with tiles of so many rows; None where it cannot run as one."""
    made = {step.made: step for step in stack if step.made}
    who: dict[str, list[tuple[Step, Input]]] = {}
    for step in stack:
        for read in step.inputs:
            who.setdefault(read.tensor, []).append((step, read))
    if any(step.waits in made for step in stack) or any(s.made not in who for s in stack[:-1]):
        return None
    found = Run(held={t: set() for t in who})
    done: dict[str, set[int]] = {step.name: set() for step in stack}
    width = {t: max(read.row for _, read in users) for t, users in who.items()}
    lines, making = dict.fromkeys(who, 0), [0.0]  # each tensor has a line buffer of its own
    leaves = {
        s.made
        for s in stack
        if s.made and (s.kept or readers.get(s.made, 0) != len(who.get(s.made, [])) or not readers.get(s.made))
    }

    def compute(step: Step, wanted: Sequence[int]) -> None:
        for read in step.inputs:
            need = set().union(*(read.needs(i) for i in wanted)) - found.held[read.tensor]
            if read.tensor in made:
                maker = made[read.tensor]
                assert not need & done[maker.name], "a row that was dropped is needed again"
                top = max(need, default=-1)
                for i in (i for i in range(maker.rows) if i <= top and i not in done[maker.name]):
                    compute(maker, [i])
            else:
                found.moved += width[read.tensor] * len(need)
                found.held[read.tensor] |= need
        for t, held in found.held.items():
            lines[t] = max(lines[t], len(held))
        making[0] = max(making[0], step.row * len(wanted))
        done[step.name] |= set(wanted)
        if step.made in found.held:
            found.held[step.made] |= set(wanted)
        found.moved += step.row * len(wanted) * (step.made in leaves)
        for t, users in who.items():
            later = set().union(*(r.needs(i) for s, r in users for i in range(s.rows) if i not in done[s.name]))
            found.held[t] &= later

    last = stack[-1]
    for start in range(0, last.rows, tile):
        compute(last, range(start, min(start + tile, last.rows)))
    for step in stack[:-1]:  # rows at the bottom that nothing asked for
        for i in range(step.rows):
            if i not in done[step.name]:
                compute(step, [i])
    found.moved += sum(step.more for step in stack)
    found.most = sum(width[t] * count for t, count in lines.items()) + making[0]
    found.most += sum(step.resident for step in stack)
    return found


def least(steps: Sequence[Step | None], batch: int, capacity: float) -> float:
    """Elements to and from DRAM of the best cut."""
    readers: dict[str, int] = {}
    for step in steps:
        for tensor in dict.fromkeys(r.tensor for r in step.inputs) if step else ():
            readers[tensor] = readers.get(tensor, 0) + 1
    statistics = {s.statistic: s for s in steps if s is not None and s.statistic}

    @cache
    def cost(a: int, b: int) -> float:
        stack = [s for s in steps[a:b] if s is not None]
        if len(stack) < b - a:
            return 0.0 if b - a == 1 else float("inf")
        alone = sum(batch * s.alone + s.weights for s in stack)
        extra = [statistics[s.made] for s in stack if s.made in statistics]
        if b - a == 1 and not extra:
            return alone
        for tile in range(1, stack[-1].rows + 1):
            found = run(stack, readers, tile)
            if found is None:
                break
            if found.most + sum(s.gathering for s in extra) <= capacity:
                moved = batch * found.moved + sum(s.weights for s in stack) if b - a > 1 else alone
                return min(moved - batch * sum(s.gathered for s in extra), alone if b - a == 1 else float("inf"))
        return alone if b - a == 1 else float("inf")

    n = len(steps)
    cuts = ([0, *(i + 1 for i in range(n - 1) if mask >> i & 1), n] for mask in range(2 ** max(n - 1, 0)))
    return min(sum(cost(a, b) for a, b in itertools.pairwise(cut)) for cut in cuts)
