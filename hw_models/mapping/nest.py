"""One mapping of one contraction as data: tiles of every memory, the loops around them, what stays in the registers.

`of_search` takes what the search found apart, `run` counts what a mapping moves by the search's own counting, so that a
mapping found and written down costs exactly what it did. `of_closed` and the blocks of a `Nest` do the same for the
closed formulas, whose blocks are no loops.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np

from hw_models.accelerator.description import OPERANDS, Accelerator
from hw_models.mapping.array_mapping import onto_array
from hw_models.mapping.closed_form import by_lengths, reuse_lengths
from hw_models.mapping.exhaustive import Found, best_nesting, mapped, untiled
from hw_models.mapping.problems import Problems, Store, machine, nestings, problems
from hw_models.mapping.tile_search import State, best_tiles
from hw_models.mapping.traffic import Lengths, Mapped, Widths
from hw_models.workload.shapes import Array
from hw_models.workload.training_passes import FILTERS, LOOPS, PIXELS, WINDOW, Passes

Tile = tuple[float, ...]  # iterations of the seven loops of a contraction, in its own order
GROUPS = (range(0, 3), range(3, 6), range(6, 7))  # pixels, window, filters


@dataclass(frozen=True)
class Level:
    """A memory's tiles, and the loops that turn around them, outermost first (places of loops)."""

    memory: str
    tile: Tile
    order: tuple[int, ...]


@dataclass(frozen=True)
class Nest:
    """A mapping: levels outermost first; which of `WAYS` the registers work in (a device: none), with steps along its
    two indices.

    Of the closed formulas instead: `blocks`, the reuse lengths (g1, g2, red) of the array and each memory, innermost
    first.
    """

    levels: tuple[Level, ...] = ()
    way: int = 0
    steps: tuple[float, float] = (1.0, 1.0)
    blocks: tuple[tuple[float, float, float], ...] = ()
    registers: bool = True


def only(p: Passes, stage: int, place: int) -> Passes:
    """The same contractions with work in one of them alone."""
    alone = np.zeros_like(p.macs)
    alone[stage, ..., place] = p.macs[stage, ..., place]
    return replace(p, macs=alone)


def of_closed(p: Passes, bits: Widths, chip: Accelerator, stage: int, place: int) -> Nest:
    """The blocks of the closed formulas for one contraction."""
    shape = p.macs.shape
    return Nest(
        tuple(Level(m.name, (), ()) for m in reversed(chip.memories)),
        registers=chip.kind == "array",
        blocks=tuple(
            tuple(float(np.broadcast_to(v, shape)[stage, place]) for v in (r.r1, r.r2, r.rr))  # type: ignore[misc]
            for r in reuse_lengths(p, bits, chip)
        ),
    )


def of_search(p: Passes, bits: Widths, chip: Accelerator, stage: int, place: int) -> Nest:
    """The mapping of one contraction that the search finds among those of `p`, as it prices them."""
    every, inverse = problems(p, bits, chip)
    at = np.full(p.macs.shape, -1)
    at[p.macs > 0] = inverse
    found = best_nesting(every, chip).take(int(at[stage, place]))
    q, _ = problems(only(p, stage, place), bits, chip)
    memories = [chip.memories[i] for i in reversed(nestings(chip)[int(found.nesting[0])])]
    chosen = [found.chosen[len(chip.memories) - 1 - chip.memories.index(m)][:, 0] for m in memories]
    way, first, second, _ = found.split[:, 0]
    outer, levels = tuple(q.loops[:, 0].tolist()), []
    options = []
    for m, c in zip(memories, chosen, strict=True):
        tile = tuple(c[:7].tolist())
        turning = [i for i in range(7) if tile[i] < outer[i]]
        fixed = chip.dataflow.get(tuple(LOOPS)[int(q.which[0])], {}).get(m.name)
        if isinstance(fixed, tuple):
            places = [LOOPS[tuple(LOOPS)[int(q.which[0])]][loop] for loop in fixed]
            options.append([tuple(i for i in places if i in turning)])
        else:
            options.append(_orders(turning, int(c[7]), bool(q.window_first[0])))
        levels.append(Level(m.name, tile, ()))
        outer = tile
    nest = Nest(tuple(levels), int(way), (float(first), float(second)), registers=chip.kind == "array")
    wanted = [found.moved[len(chip.memories) - 1 - chip.memories.index(m)][:, 0] for m in memories]
    return _with_orders(q, chip, nest, options, wanted)


def _orders(turning: list[int], stays: int, window_first: bool) -> list[tuple[int, ...]]:
    """Orders of the loops that turn in which an operand (0 X, 1 Y, 2 sums) stays: its missing index innermost.

    Of each group any loop may be the innermost one, on which what X walks over depends.
    """
    one, red = (1, 0) if window_first else (0, 1)
    inner = (2, one, red)[stays]
    found = []
    for outer in itertools.permutations([g for g in range(3) if g != inner]):
        groups = [[i for i in GROUPS[g] if i in turning] for g in (*outer, inner)]
        for ways in itertools.product(*([[*(i for i in g if i != last), last] for last in g] or [[]] for g in groups)):
            found.append(tuple(itertools.chain(*ways)))
    return list(dict.fromkeys(found))


def _with_orders(
    q: Problems, chip: Accelerator, nest: Nest, options: list[list[tuple[int, ...]]], wanted: list[Array]
) -> Nest:
    """The nest with, level by level, the order of loops that moves what the search counted."""
    state, levels = untiled(q), list(nest.levels)
    stores = _stores(q, chip, nest)
    for i, (level, orders) in enumerate(zip(nest.levels, options, strict=True)):
        tried = [(order, _cut(q, state, stores[i], replace(level, order=order))) for order in orders]
        order, state = min(tried, key=lambda t: float(np.abs(t[1].moved[-1][:, 0] * q.groups - wanted[i]).sum()))
        levels[i] = replace(level, order=order)
    return replace(nest, levels=tuple(levels))


def _stores(q: Problems, chip: Accelerator, nest: Nest) -> list[Store]:
    names = [m.name for m in chip.memories]
    return machine(chip, q, tuple(names.index(level.memory) for level in reversed(nest.levels)))[0]


def _cut(q: Problems, state: State, store: Store, level: Level) -> State:
    """One level of a nest: its tiles inside those of the level outside."""
    place = np.zeros((7, 1))
    for at, loop in enumerate(level.order, 1):
        place[loop] = at
    tile = np.array(level.tile)[:, None]
    given = replace(store, stays=None, order=place)
    filters = tile[FILTERS].reshape(1, 1, 1)
    return best_tiles(q, state, given, 1, tile[PIXELS, :, None], tile[WINDOW, :, None], None, filters)


def run(p: Passes, bits: Widths, chip: Accelerator, nest: Nest) -> Mapped:
    """What a nest moves in the only contraction with work, arrays like those of `Passes`."""
    if nest.blocks:
        return by_lengths(p, bits, chip, [Lengths(*(np.full_like(p.macs, v) for v in b)) for b in nest.blocks])
    q, inverse = problems(p, bits, chip)
    state = untiled(q)
    for store, level in zip(_stores(q, chip, nest), nest.levels, strict=True):
        state = _cut(q, state, store, level)
    names = [level.memory for level in nest.levels]
    own = [names.index(m.name) for m in reversed(chip.memories)]  # levels outermost first, in the order of the chip
    moved = [m * q.groups for m in state.moved]
    if chip.kind == "device":
        edge, steps = moved[-1], np.zeros(1)
    else:
        registers = replace(machine(chip, q)[1], stays=None)
        placed = onto_array(q, state, registers, given=(nest.way, *nest.steps))
        edge, steps = placed.moved * q.groups, placed.steps * q.groups
    found = Found(
        (*(moved[i] for i in own), edge),
        tuple(state.chosen[i] for i in own),
        np.zeros((4, 1)),
        steps,
        np.zeros(1),
    )
    return mapped(p, q, inverse, found, chip)


def words(q: Problems, chip: Accelerator) -> dict[str, float]:
    """Words of each operand in the registers of a multiplier."""
    return dict(zip(OPERANDS, machine(chip, q)[1].words[:, 0].tolist(), strict=True))
