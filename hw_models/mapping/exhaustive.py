"""Reuse model `search`: the best mapping over integer tiles and loop orders, level by level, with exact window margins.

A memory keeps a tile of each operand that it holds; the loops over its tiles run in some order inside the tile of the
memory outside. An element of an operand is fetched as often as there are tiles along the loops which the operand does
not have, unless these are the innermost loops that turn: then its tile stays. So of all orders three differ, one for
each operand that stays. Last tiles may be smaller; every count is a whole number. Where pixels are the innermost loop
that X depends on, the rows that the last tile needed too may slide along.

Candidates are tiles of pixels (images, rows, columns) x tiles of the window (channels, rows, columns), all of them for
small layers, else strips, squares and whole images, then the surroundings of the best; filters per tile are as many as
the memory still takes. The best tiles of a memory are cut again by the next inner one, and the array is mapped inside
the best of the innermost. A test compares the result with all tilings and orders of small problems.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hw_models.accelerator.description import OPERANDS, Accelerator
from hw_models.mapping.array_mapping import onto_array
from hw_models.mapping.bursts import run_elements
from hw_models.mapping.deduplicate import Ints, spread
from hw_models.mapping.problems import Problems, Registers, Store, machine, nestings, problems
from hw_models.mapping.tile_search import State, best_tiles, first_rows, joined
from hw_models.mapping.tiles import SMALL, all_tiles, around, pixel_tiles, window_tiles
from hw_models.mapping.traffic import Lengths, Mapped, Traffic, Widths
from hw_models.workload.shapes import Array
from hw_models.workload.training_passes import FILTERS, PIXELS, WINDOW, Passes

BEAM = 2  # tiles of an outer memory, for each operand that stays, which are cut further
MANY = 60  # the same of a problem of few products, where one tile more or less is much; at every stage
WIDE = 12  # tiles of the innermost memory, for each operand that stays, whose mapping onto the array is estimated
NEAREST = 6  # tiles whose surroundings are searched
LAST = 8  # and worked out


@dataclass(frozen=True)
class Found:
    """The best mapping of each problem: what crosses each boundary [boundary][4, problem] (array last), tiles and
    staying operand of each memory [memory][8, problem], register split [4, problem], steps of the array, and which of
    the chip's `nestings`."""

    moved: tuple[Array, ...]
    chosen: tuple[Array, ...]
    split: Array
    steps: Array
    nesting: Array

    def take(self, i: int) -> Found:
        """One problem's mapping."""
        return Found(
            tuple(m[:, i : i + 1] for m in self.moved),
            tuple(c[:, i : i + 1] for c in self.chosen),
            self.split[:, i : i + 1],
            self.steps[i : i + 1],
            self.nesting[i : i + 1],
        )


def _every_way(q: Problems, state: State, store: Store, keep: int, registers: Registers | None) -> State:
    """The best tiles of one memory: all of a small problem, else first halvings, then the surroundings of the best."""
    small_a, small_b = (q.loops[part].prod(axis=0)[state.problem] <= SMALL for part in (PIXELS, WINDOW))
    uncut = q.strides[0] == 0
    found = []
    tiny = (q.loops.prod(axis=0) <= SMALL**2)[state.problem]
    kinds = ((True, True, True), (False, True, True), (False, True, False), (False, False, True), (False, False, False))
    for few, few_a, few_b in kinds:
        of_kind = tiny if few else ~tiny & (small_a == few_a) & (small_b == few_b)
        rows = np.flatnonzero(of_kind)
        if not rows.size:
            continue
        part = state.take(rows)
        unit = q.unit[:, part.problem]
        tiles = []
        for every, loops in ((few_a, PIXELS), (few_b, WINDOW)):
            if every:
                tiles.append(all_tiles(part.tile[loops], unit[loops], uncut[part.problem] & (loops is WINDOW)))
            else:
                tiles.append(
                    pixel_tiles(part.tile[loops], unit[loops])
                    if loops is PIXELS
                    else window_tiles(part.tile[loops], unit[loops], uncut[part.problem])
                )
        best = best_tiles(q, part, store, MANY if few else keep, tiles[0], tiles[1], registers)
        if not (few_a and few_b):
            best = _refined(q, part, best, store, keep, registers)
        found.append(best)
    return joined(found)


def _refined(q: Problems, outer: State, best: State, store: Store, keep: int, registers: Registers | None) -> State:
    """Around each of the best tiles: a few more or fewer pieces along every loop."""
    chosen = best.take(first_rows(best.problem, best.rank, keep=NEAREST))
    inside = outer.take(chosen.parent)
    unit = q.unit[:, inside.problem]
    near = best_tiles(
        q,
        inside,
        store,
        keep,
        around(chosen.tile[PIXELS], inside.tile[PIXELS], unit[PIXELS]),
        around(chosen.tile[WINDOW], inside.tile[WINDOW], unit[WINDOW], 1),
        registers,
    )
    return joined([best, near])


def search(p: Passes, bits: Widths, chip: Accelerator) -> Mapped:
    """The best mapping found, arrays like those of `Passes`."""
    q, inverse = problems(p, bits, chip)
    return mapped(p, q, inverse, best_nesting(q, chip), chip)


def mapped(p: Passes, q: Problems, inverse: Ints, found: Found, chip: Accelerator) -> Mapped:
    """The bits, tiles and steps of found mappings, for every contraction."""
    widths = (q.x, q.y, q.z, q.acc)
    boundaries = [
        Traffic(*(spread(elements * width, p, inverse) for elements, width in zip(moved, widths, strict=True)))
        for moved in found.moved[::-1]
    ]
    tiles = tuple(tuple(spread(bits, p, inverse) for bits in tile_bits(q, chosen)) for chosen in found.chosen[::-1])
    runs = tuple(spread(run, p, inverse) for run in _runs(q, chip, found))
    return Mapped(tuple(boundaries), spread(found.steps, p, inverse), tiles, runs)


def _runs(q: Problems, chip: Accelerator, found: Found) -> tuple[Array, ...]:
    """Bits of X, Y, finished Z and sums that lie together in DRAM, in tiles of the outermost memory that holds each."""
    out = []
    for i, operand in enumerate(OPERANDS):
        level = next((n for n, m in enumerate(reversed(chip.memories)) if operand in m.holds), len(chip.memories) - 1)
        out.append(run_elements(q, found.chosen[level][:7])[i])
    return out[0] * q.x, out[1] * q.y, out[2] * q.z, out[2] * q.acc


def best_nesting(q: Problems, chip: Accelerator) -> Found:
    """The best mapping of each problem over the ways in which memories side by side may be nested."""
    best: Found | None = None
    for number, order in enumerate(nestings(chip)):
        stores, registers = machine(chip, q, order)
        found = solve(q, stores, None if chip.kind == "device" else registers)
        # levels outermost first, back in the order of the chip
        places = [len(order) - 1 - order.index(i) for i in reversed(range(len(order)))]
        found = Found(
            (*(found.moved[i] for i in places), found.moved[-1]),
            tuple(found.chosen[i] for i in places),
            found.split,
            found.steps,
            np.full_like(found.steps, number),
        )
        best = found if best is None else _cheaper(best, found)
    assert best is not None
    return best


def _cheaper(a: Found, b: Found) -> Found:
    """The cheaper of two mappings, problem by problem."""
    better = b.split[3] < a.split[3] * (1 - 1e-12)
    return Found(
        tuple(np.where(better, y, x) for x, y in zip(a.moved, b.moved, strict=True)),
        tuple(np.where(better, y, x) for x, y in zip(a.chosen, b.chosen, strict=True)),
        np.where(better, b.split, a.split),
        np.where(better, b.steps, a.steps),
        np.where(better, b.nesting, a.nesting),
    )


def tile_bits(q: Problems, tile: Array) -> tuple[Array, Array, Array]:
    """Bits of X, Y and sums in tiles [7, problem]."""
    x = tile[0] * tile[3]
    for axis in (0, 1):
        whole = tile[4 + axis] >= q.loops[4 + axis]
        stride = q.strides[axis]
        scale = np.where(whole, q.scale[axis], np.minimum(tile[4 + axis], stride))
        margin = np.where(whole, q.margin[axis], np.maximum(tile[4 + axis] - stride, 0.0))
        x = x * np.minimum(scale * tile[1 + axis] + margin, q.limit[axis])
    pixels, window = tile[PIXELS].prod(axis=0), tile[WINDOW].prod(axis=0)
    one, red = np.where(q.window_first, window, pixels), np.where(q.window_first, pixels, window)
    return x * q.x, tile[FILTERS] * red * q.y_scale * q.y, tile[FILTERS] * one * q.acc


def innermost_tiles(p: Passes, bits: Widths, chip: Accelerator) -> Lengths:
    """The extents of the innermost memory's tiles in the mapping that `search` finds."""
    q, inverse = problems(p, bits, chip)
    tile = best_nesting(q, chip).chosen[-1]
    pixels, window = tile[PIXELS].prod(axis=0), tile[WINDOW].prod(axis=0)
    one, red = np.where(q.window_first, window, pixels), np.where(q.window_first, pixels, window)
    return Lengths(*(spread(size, p, inverse) for size in (one, tile[FILTERS], red)))


def untiled(q: Problems) -> State:
    """Every problem as one tile: the state outside all memories."""
    count = q.groups.size
    ones = np.ones((7, count))
    return State(
        np.arange(count),
        q.loops,
        q.loops[:, :, None],
        ones[:, :, None],
        ones,
        np.prod(q.limit, axis=0) * q.loops[0] * q.loops[3],
        np.ones((3, count)),
        (),
        (),
        np.zeros(count),
        np.zeros(count),
        np.arange(count),
    )


def solve(q: Problems, stores: list[Store], registers: Registers | None) -> Found:
    """The best mapping of every problem; `stores` from the outermost memory inwards."""
    count = q.groups.size
    state = untiled(q)
    tiny = q.loops.prod(axis=0) <= SMALL**2
    for depth, store in enumerate(stores):
        last = depth + 1 == len(stores)
        state = _every_way(q, state, store, WIDE, registers if last else None)
        if not last:
            group = state.problem * 4 + state.chosen[-1][7].astype(np.int64)
            state = state.take(
                first_rows(
                    group,
                    np.round(state.rank, 3),
                    -state.tile.prod(axis=0),
                    keep=np.where(tiny[state.problem], MANY, BEAM),
                )
            )
    if registers is None:  # a device: what happens inside is in its energy of an operation
        pick = first_rows(state.problem, np.round(state.cost, 3))
        moved, chosen = tuple(m[:, pick] * q.groups for m in state.moved), tuple(c[:, pick] for c in state.chosen)
        return Found((*moved, moved[-1]), chosen, np.zeros((4, count)), np.zeros(count), np.zeros(count))
    rough = onto_array(q, state, registers, rough=True)
    few = np.where(tiny[state.problem], MANY, LAST)
    state = state.take(first_rows(state.problem, np.round(rough.energy, 3), keep=few))
    placed = onto_array(q, state, registers)
    pick = first_rows(state.problem, np.round(placed.energy, 3), placed.steps)
    moved = (*(m[:, pick] for m in state.moved), placed.moved[:, pick])
    return Found(
        tuple(m * q.groups[None, :] for m in moved),
        tuple(c[:, pick] for c in state.chosen),
        np.concatenate([placed.split[:, pick], placed.energy[None, pick]]),
        placed.steps[pick] * q.groups,
        np.zeros(count),
    )
