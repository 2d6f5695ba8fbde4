"""The mapping search against every tiling and loop order of small problems, counted by a machine that runs nests."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from math import prod

import numpy as np
import pytest

from hw_models import Layer, load
from hw_models.accelerator.description import OPERANDS, Accelerator, Memory
from hw_models.mapping.exhaustive import search
from hw_models.mapping.traffic import Widths
from hw_models.precision.formats import PASSES
from hw_models.workload.shapes import shapes
from hw_models.workload.training_passes import passes
from tests.oracle.loop_nest import LOOPS, USES, Level, Problem, fetched, optimum, simulate

BASE = load("horowitz-45nm")
ONE = (1,) * 7


def _problem(rng: random.Random, most: int) -> Problem:
    """A random convolution without padding, of up to `most` products."""
    while True:
        sizes = (
            rng.choice([1, 1, 2]),
            rng.randint(1, 6),
            rng.randint(1, 6),
            rng.randint(1, 6),
            rng.randint(1, 5),
            rng.choice([1, 2, 3]),
            rng.choice([1, 1, 2, 3]),
        )
        if 8 <= prod(sizes) <= most:
            which, stride = rng.choice(list(USES)), rng.choice([1, 2])
            return Problem(sizes, stride, which, rng.choice([4, 8, 16]), 8, 8, rng.choice([16, 32]))


def _layer(p: Problem) -> Layer:
    n = dict(zip(LOOPS, p.sizes, strict=True))
    h, w = (n["P"] - 1) * p.stride + n["R"], (n["Q"] - 1) * p.stride + n["S"]
    products = n["K"] * n["C"] * n["P"] * n["Q"] * n["R"] * n["S"]
    return Layer("conv", "conv", macs=products, inputs=n["C"] * h * w, outputs=n["K"] * n["P"] * n["Q"],
                 weights=n["K"] * n["C"] * n["R"] * n["S"], channels=(n["C"], n["K"]), size=(h, w),
                 out=(n["P"], n["Q"]), kernel=(n["R"], n["S"]), stride=(p.stride, p.stride))  # fmt: skip


NAMES = dict(zip("XYZ", OPERANDS, strict=True))  # of the operands in a profile


def _chip(
    capacities: tuple[float, ...],
    costs: tuple[float, ...],
    unit: tuple[int, ...],
    slides: bool,
    dataflow: tuple[str, ...] = (),
) -> Accelerator:
    """Memories of these bits, outermost first, at pJ per bit (DRAM first); an array that unrolls K and C.

    `dataflow`: as in the oracle's `optimum`.
    """
    levels = [*(f"m{i}" for i in range(len(capacities))), "registers"]
    fixed = {
        name: NAMES[what] if what in NAMES else tuple(what)
        for name, what in zip(levels, dataflow, strict=False)
        if what
    }
    memories = [
        Memory(f"m{i}", bits, replace(BASE.dram, value=c), replace(BASE.dram, value=c), 1e9, slides=slides)
        for i, (bits, c) in enumerate(zip(capacities, costs[1:], strict=True))
    ]
    registers = {name: replace(r, bits=0.0, shared_along=()) for name, r in BASE.registers.items()}
    unroll = {which: (("K",), ("C",)) for which in PASSES}
    return replace(BASE, dims=(unit[1], unit[2]), unroll=unroll, memories=tuple(memories[::-1]), registers=registers,
                   dram=replace(BASE.dram, value=costs[0]), network=None,
                   dataflow=dict.fromkeys(PASSES, fixed) if fixed else {})  # fmt: skip


def _searched(p: Problem, chip: Accelerator) -> float:
    """pJ of everything that crosses a boundary in the mapping that the search finds."""
    table = passes(shapes([_layer(p)]), p.sizes[0])
    bits = Widths(*(np.full_like(table.macs, float(b)) for b in (p.x, p.y, p.z, p.acc)))
    row = PASSES.index(p.which)
    outside = [*(m.read.value for m in chip.memories), chip.dram.value]
    total = 0.0
    for i, t in enumerate(search(table, bits, chip).boundaries):  # the array's first
        cost = outside[i] + (outside[i - 1] if i else 0.0)
        total += cost * float(t.total[row, 0])
    return total


def _dataflow(rng: random.Random, levels: int) -> tuple[str, ...]:
    """At each memory an operand that stays, an order of loops, or nothing; at the array an operand or nothing."""
    memories = [rng.choice(["X", "Y", "Z", "".join(rng.sample(LOOPS, 7)), "".join(rng.sample(LOOPS, 7)), ""])
                for _ in range(levels)]  # fmt: skip
    return (*memories, rng.choice(["X", "Y", "Z", ""]))


def _ratios(
    count: int, levels: int, most: int, unit: tuple[int, ...] = ONE, slides: bool = False, fixed: bool = False
) -> list[float]:
    """Energy of the search over that of the best of all mappings, for random problems (and dataflows, if `fixed`)."""
    rng = random.Random(f"{levels} {unit} {slides}")
    found = []
    for _ in range(count):
        p = _problem(rng, most)
        least = p.bits(tuple(map(min, unit, p.sizes)))
        room = tuple(
            sorted((max(least, p.bits(p.sizes) * rng.uniform(0.05, 0.9)) for _ in range(levels)), reverse=True)
        )
        costs = [float(rng.choice([20, 200]))]
        for _ in range(levels):
            costs.append(costs[-1] / rng.choice([2, 5, 10]))
        energies = (*((costs[i] + costs[i + 1],) * 2 for i in range(levels)), (costs[-1],) * 2)
        flow = _dataflow(rng, levels) if fixed else ()
        best, _ = optimum(p, room, energies, unit, slides, flow)
        found.append(_searched(p, _chip(room, tuple(costs), unit, slides, flow)) / best)
    return found


@pytest.mark.parametrize(("count", "levels", "most", "unit", "slides"), [
    (25, 1, 250, ONE, False), (25, 1, 250, (1, 2, 2, 1, 1, 1, 1), False), (15, 1, 250, ONE, True),
    (15, 2, 80, ONE, False)])  # fmt: skip
def test_search_finds_the_best_of_all_mappings(
    count: int, levels: int, most: int, unit: tuple[int, ...], slides: bool
) -> None:
    ratios = _ratios(count, levels, most, unit, slides)
    assert min(ratios) >= 1 - 1e-9 and max(ratios) <= 1.05


@pytest.mark.slow
@pytest.mark.parametrize(("count", "levels", "most", "unit", "slides"), [
    (300, 1, 400, ONE, False), (200, 1, 400, (1, 2, 2, 1, 1, 1, 1), False), (200, 1, 400, ONE, True),
    (200, 2, 100, ONE, False), (100, 2, 100, (1, 2, 2, 1, 1, 1, 1), False)])  # fmt: skip
def test_search_finds_the_best_of_all_mappings_of_a_thousand_problems(
    count: int, levels: int, most: int, unit: tuple[int, ...], slides: bool
) -> None:
    ratios = _ratios(count, levels, most, unit, slides)
    assert min(ratios) >= 1 - 1e-9 and max(ratios) <= 1.05


@pytest.mark.parametrize(("count", "levels", "most", "unit", "slides"), [
    (30, 1, 250, ONE, False), (25, 1, 250, (1, 2, 2, 1, 1, 1, 1), False), (20, 1, 250, ONE, True),
    (15, 2, 60, ONE, False)])  # fmt: skip
def test_search_finds_the_best_mapping_of_a_given_dataflow(
    count: int, levels: int, most: int, unit: tuple[int, ...], slides: bool
) -> None:
    ratios = _ratios(count, levels, most, unit, slides, fixed=True)
    assert min(ratios) >= 1 - 1e-9 and max(ratios) <= 1.05


@pytest.mark.slow
@pytest.mark.parametrize(("count", "levels", "most", "unit", "slides"), [
    (200, 1, 400, ONE, False), (150, 1, 400, (1, 2, 2, 1, 1, 1, 1), False), (150, 1, 400, ONE, True),
    (150, 2, 100, ONE, False), (50, 2, 100, (1, 2, 2, 1, 1, 1, 1), False)])  # fmt: skip
def test_search_finds_the_best_mapping_of_a_given_dataflow_in_many_cases(
    count: int, levels: int, most: int, unit: tuple[int, ...], slides: bool
) -> None:
    ratios = _ratios(count, levels, most, unit, slides, fixed=True)
    assert min(ratios) >= 1 - 1e-9 and max(ratios) <= 1.05


def test_counting_tile_changes_is_what_a_step_by_step_machine_fetches() -> None:
    rng = random.Random(1)
    for _ in range(150):
        p, levels = _problem(rng, 300), []
        outside = p.sizes
        for _ in range(rng.choice([0, 1, 2])):
            outside = tuple(rng.randint(1, n) for n in outside)
            levels.append(Level(outside, "".join(rng.sample(LOOPS, 7))))
        levels.append(Level(ONE, "".join(rng.sample(LOOPS, 7)), unfolded=True))
        run, counted = simulate(p, levels), fetched(p, levels)
        for a, b in zip(run, counted, strict=True):
            assert (a.X <= b.X) and (a.Y <= b.Y) and a.Z == b.Z and a.spill <= b.spill
        tiles = [p.sizes, *(level.tile for level in levels)]
        even = all(n % t == 0 for one, two in pairwise(tiles) for n, t in zip(one, two, strict=True))
        if even and all(level.tile[5:] == p.sizes[5:] for level in levels[:-1]):
            assert run == counted
        assert simulate(p, levels[:1], True)[0].X <= fetched(p, levels[:1], True)[0].X
