"""A machine that runs a loop nest step by step and counts what each of its memories has to fetch; slow and obvious.

A convolution is seven loops, N K C P Q R S. A memory keeps one tile (so many iterations of each loop) and walks over
the tile of the memory outside it in some order of loops; the last tile of a loop may be smaller. Whenever the elements
of an operand that the tile needs are not those that the memory has, they are fetched whole. With `slides`, rows or
columns of X that the previous tile needed too stay if only they moved, and forwards. A sum that comes back is read, and
written once more; the last time it leaves at its final width.

`simulate` does exactly that. `fetched` says the same for a whole nest by the number of tile changes (without sliding
they are equal, a test holds it), which is quick enough for `optimum` to try every tiling and every order of loops.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import prod

LOOPS = "NKCPQRS"
OPERANDS = "XYZ"
USES = {  # which loops an operand is indexed by
    "forward": {"X": "NCPQRS", "Y": "KCRS", "Z": "NKPQ"},
    "weight_gradient": {"X": "NCPQRS", "Y": "NKPQ", "Z": "KCRS"},
}
Tile = tuple[int, ...]  # iterations of each of LOOPS


@dataclass(frozen=True)
class Problem:
    """A convolution without padding, one pass; widths in bits of X, Y, finished Z and the accumulator."""

    sizes: Tile
    stride: int
    which: str
    x: int
    y: int
    z: int
    acc: int

    def uses(self, operand: str) -> str:
        return USES[self.which][operand]

    def words(self, operand: str, tile: Tile) -> int:
        """Elements of an operand under a tile of full size."""
        t = dict(zip(LOOPS, tile, strict=True))
        if operand == "X":
            return (
                t["N"]
                * t["C"]
                * len(_span(0, t["P"], 0, t["R"], self.stride))
                * len(_span(0, t["Q"], 0, t["S"], self.stride))
            )
        return prod(t[loop] for loop in self.uses(operand))

    def bits(self, tile: Tile) -> int:
        """What a memory needs to keep a tile of all three operands."""
        return sum(self.words(o, tile) * w for o, w in zip(OPERANDS, (self.x, self.y, self.acc), strict=True))


@dataclass(frozen=True)
class Level:
    """A memory with its tile and the order of the loops over such tiles, outermost first. `unfolded`: registers at the
    multipliers, where each element of X is kept once for every product that needs it."""

    tile: Tile
    order: str = LOOPS
    unfolded: bool = False


@dataclass
class Moved:
    """Elements that crossed a boundary: X and Y inwards, sums outwards the last time, sums out and in again."""

    X: int = 0
    Y: int = 0
    Z: int = 0
    spill: int = 0

    def joules(self, p: Problem, inwards: float, outwards: float) -> float:
        """Energy at `inwards` and `outwards` per bit."""
        return (self.X * p.x + self.Y * p.y + self.spill * p.acc) * inwards + (
            self.Z * p.z + self.spill * p.acc
        ) * outwards


@cache
def _span(low: int, high: int, first: int, last: int, stride: int) -> frozenset[int]:
    """Rows of X that output rows [low, high) touch with window rows [first, last)."""
    return frozenset(i * stride + j for i in range(low, high) for j in range(first, last))


Box = dict[str, tuple[int, int]]


def _walk(box: Box, levels: list[Level]) -> Iterator[list[Box]]:
    """The tiles of every level, step by step of the innermost one."""
    if not levels:
        yield []
        return
    size = dict(zip(LOOPS, levels[0].tile, strict=True))
    ranges = [range(*box[loop], size[loop]) for loop in levels[0].order]
    for starts in itertools.product(*ranges):
        inner = {
            loop: (at, min(at + size[loop], box[loop][1])) for loop, at in zip(levels[0].order, starts, strict=True)
        }
        for rest in _walk(inner, levels[1:]):
            yield [inner, *rest]


def _elements(p: Problem, operand: str, box: Box, unfolded: bool) -> tuple[frozenset[object], ...]:
    """What of an operand a tile needs: along each of its axes, which elements."""
    if operand != "X" or unfolded:
        return tuple(frozenset(range(*box[loop])) for loop in p.uses(operand))
    return (
        frozenset(range(*box["N"])),
        frozenset(range(*box["C"])),
        _span(*box["P"], *box["R"], p.stride),
        _span(*box["Q"], *box["S"], p.stride),
    )


def _count(elements: tuple[frozenset[object], ...]) -> int:
    return prod(map(len, elements))


def _new(now: tuple[frozenset[object], ...], before: tuple[frozenset[object], ...] | None, slides: bool) -> int:
    """Elements of X to fetch after `before`: all, or what is new along the one axis that moved forwards."""
    if before is None or not slides:
        return _count(now)
    moved = [i for i in range(len(now)) if now[i] != before[i]]
    if len(moved) == 1 and moved[0] >= 2 and min(now[moved[0]]) > min(before[moved[0]]):  # type: ignore[type-var]
        return _count(now) // len(now[moved[0]]) * len(now[moved[0]] - before[moved[0]])
    return _count(now)


def simulate(p: Problem, levels: list[Level], slides: bool = False) -> list[Moved]:
    """What crosses the outer boundary of each level, outermost first, one step of the innermost tile after another."""
    moved = [Moved() for _ in levels]
    kept: list[dict[str, tuple[frozenset[object], ...]]] = [{} for _ in levels]
    seen: list[set[tuple[frozenset[object], ...]]] = [set() for _ in levels]
    whole = {loop: (0, n) for loop, n in zip(LOOPS, p.sizes, strict=True)}
    for boxes in _walk(whole, levels):
        for i, box in enumerate(boxes):
            for operand in OPERANDS:
                needed = _elements(p, operand, box, levels[i].unfolded)
                before = kept[i].get(operand)
                if needed == before:
                    continue
                kept[i][operand] = needed
                if operand == "X":
                    moved[i].X += _new(needed, before, slides and not levels[i].unfolded)
                elif operand == "Y":
                    moved[i].Y += _count(needed)
                elif needed in seen[i]:
                    moved[i].spill += _count(needed)
                else:
                    seen[i].add(needed)
                    moved[i].Z += _count(needed)
    return moved


@cache
def parts(size: int, tiles: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """A loop of `size` cut by tiles within tiles, outermost first: (from, to) of every innermost one."""
    found = [(0, size)]
    for t in tiles:
        found = [(at, min(at + t, end)) for start, end in found for at in range(start, end, t)]
    return tuple(found)


@cache
def _rows(
    pixels: tuple[tuple[int, int], ...], taps: tuple[tuple[int, int], ...], stride: int, walks: str, over_taps: bool
) -> int:
    """Rows that the tiles fetch, walking over one of the two loops with the other one standing still."""
    steps = [[_span(*a, *b, stride) for b in taps] for a in pixels]
    if not over_taps:
        steps = [list(lane) for lane in zip(*steps, strict=True)]
    if not walks:
        return sum(len(step) for lane in steps for step in lane)
    return sum(len(lane[0]) + sum(len(b - a) for a, b in itertools.pairwise(lane)) for lane in steps)


def fetched(p: Problem, levels: list[Level], slides: bool = False) -> list[Moved]:
    """`simulate` by counting: how often a tile changes is the product of the loops outside the innermost one that the
    operand depends on. Equal where tiles divide evenly and nothing slides; else never less (a smaller last tile may
    have no loop left that turns, a walk may meet rows of the walk before). Sliding is credited for the outermost level
    only."""
    out: list[Moved] = []
    before = dict.fromkeys(OPERANDS, 1)  # how often each element of an operand came to the level outside
    x_before = 0
    outside: Tile = p.sizes
    for depth, level in enumerate(levels):
        cut = {loop: parts(p.sizes[i], tuple(k.tile[i] for k in levels[: depth + 1])) for i, loop in enumerate(LOOPS)}
        cut_before = {loop: parts(p.sizes[i], tuple(k.tile[i] for k in levels[:depth])) for i, loop in enumerate(LOOPS)}
        turning = [loop for i, loop in enumerate(LOOPS) if level.tile[i] < outside[i]]
        order = [loop for loop in level.order if loop in turning]
        visits, new = {}, Moved()
        x_words = 0
        for operand in OPERANDS:
            own = p.uses(operand)
            places = [i for i, loop in enumerate(order) if loop in own]
            if not places:
                visits[operand], x_words = before[operand], x_before if operand == "X" else x_words
            else:
                visits[operand] = prod(
                    len((cut if loop in order[: places[-1]] else cut_before)[loop]) for loop in LOOPS if loop not in own
                )
            if operand == "X" and (places or not depth or level.unfolded):
                x_words = visits["X"] * _all_x(
                    p, cut, level.unfolded, order[places[-1]] if places and slides and not depth else ""
                )
        sizes = {o: prod(n for loop, n in zip(LOOPS, p.sizes, strict=True) if loop in p.uses(o)) for o in "YZ"}
        new = Moved(x_words, visits["Y"] * sizes["Y"], sizes["Z"], (visits["Z"] - 1) * sizes["Z"])
        out.append(new)
        before, x_before, outside = visits, x_words, level.tile
    return out


def _all_x(p: Problem, cut: dict[str, tuple[tuple[int, int], ...]], unfolded: bool, walks: str) -> int:
    """Elements of X under all tiles, one after the other; along the loop `walks` only what is new."""
    n = dict(zip(LOOPS, p.sizes, strict=True))
    if unfolded:
        return prod(n[loop] for loop in p.uses("X"))
    total = n["N"] * n["C"]
    for pixels, taps in (("P", "R"), ("Q", "S")):
        total *= _rows(cut[pixels], cut[taps], p.stride, walks if walks in (pixels, taps) else "", walks == taps)
    return total


@cache
def tilings(size: int) -> tuple[int, ...]:
    """Tile sizes of a loop: all of them."""
    return tuple(range(1, size + 1))


@cache
def orders(which: str, turning: str) -> tuple[str, ...]:
    """Every order of the loops that turn, but one only of those that cannot differ in what they fetch."""
    seen: dict[object, str] = {}
    for order in itertools.permutations(turning):
        sign: list[object] = []
        for operand in OPERANDS:
            places = [i for i, loop in enumerate(order) if loop in USES[which][operand]]
            sign.append(frozenset(order[: places[-1]]) - set(USES[which][operand]) if places else None)
            if operand == "X":
                sign.append(order[places[-1]] if places else None)
        seen.setdefault(tuple(sign), "".join(order) + "".join(loop for loop in LOOPS if loop not in order))
    return tuple(seen.values())


def allowed(p: Problem, turning: str, fixed: str) -> tuple[str, ...]:
    """The orders of the loops that turn which a dataflow allows: any (""), one order of all loops, or those in which
    an operand stays: no loop that it does not depend on turns outside one that it does."""
    if len(fixed) == len(LOOPS):
        return (fixed,)
    found = orders(p.which, turning)
    if not fixed:
        return found
    own = set(p.uses(fixed)) & set(turning)
    return tuple(o for o in found if set([loop for loop in o if loop in turning][: len(own)]) == own)


def optimum(
    p: Problem,
    capacities: tuple[float, ...],
    energies: tuple[tuple[float, float], ...],
    least: Tile = (1,) * 7,
    slides: bool = False,
    dataflow: tuple[str, ...] = (),
) -> tuple[float, list[Level]]:
    """The least energy over all tilings and loop orders, and its nest.

    `dataflow`: of each memory and the array, outermost first, what `allowed` takes; () leaves all free.

    `capacities`: bits of each memory, outermost first. `energies`: per bit inwards and outwards across each boundary,
    the last one that of the array. Inside the innermost memory an array works `least` iterations at a time, with one
    word of each operand at each multiplier.
    """
    best: tuple[float, list[Level]] = (float("inf"), [])

    def down(outside: Tile, chosen: list[Level], rest: tuple[float, ...]) -> None:
        nonlocal best
        depth = len(chosen)
        last = not rest
        sizes = (
            [least]
            if last
            else itertools.product(
                *([t for t in tilings(n) if t >= min(u, n)] for n, u in zip(outside, least, strict=True))
            )
        )
        for tile in sizes:
            tile = tuple(map(min, tile, outside))
            if not last and p.bits(tile) > rest[0]:
                continue
            turning = "".join(loop for i, loop in enumerate(LOOPS) if tile[i] < outside[i])
            for order in allowed(p, turning, dataflow[depth] if dataflow else ""):
                levels = [*chosen, Level(tile, order, unfolded=last)]
                spent = sum(
                    m.joules(p, *e) for m, e in zip(fetched(p, levels, slides), energies[: depth + 1], strict=True)
                )
                if spent >= best[0]:
                    continue
                if last:
                    best = spent, levels
                else:
                    down(tile, levels, rest[1:])

    down(p.sizes, [], capacities)
    return best
