"""Whether a mapping fits a contraction and an accelerator: what does not, by level and loop."""

from __future__ import annotations

import math

import numpy as np

from hw_models.accelerator.description import OPERANDS, Accelerator
from hw_models.analysis.mapping_file import MappingError, MappingFile, indices_of, names_of, number
from hw_models.errors import did_you_mean
from hw_models.mapping.array_mapping import WAYS
from hw_models.mapping.exhaustive import tile_bits
from hw_models.mapping.nest import Level, words
from hw_models.mapping.problems import Problems, nestings
from hw_models.units import BITS_PER_KIB


def check_mapping(m: MappingFile, q: Problems, chip: Accelerator) -> None:
    """Raise `MappingError` for the first thing that cannot be run; `q`: the contraction alone."""
    names = names_of(m.which)
    for name, told, real in zip(names, m.problem, q.loops[:, 0].tolist(), strict=True):
        if told != real:
            raise MappingError(f"problem.{name}: is {number(told)}, the layer has {number(real)}")
    _levels(m, chip)
    if m.nest.registers != (chip.kind == "array"):
        raise MappingError("registers: " + ("is missing" if chip.kind == "array" else "a device has none; remove it"))
    if m.nest.blocks:
        _blocks(m, q)
        return
    outside, outer = "the layer", tuple(m.problem)
    for level, trips in zip(m.nest.levels, m.trips, strict=True):
        _tile(level, trips, names, q, outside, outer)
        _room(level, q, chip)
        outside, outer = level.memory, level.tile
    if m.nest.registers:
        _registers(m, q, chip)


def _levels(m: MappingFile, chip: Accelerator) -> None:
    known = [memory.name for memory in chip.memories]
    given = [level.memory for level in m.nest.levels]
    for name in given:
        if name not in known:
            raise MappingError(f"level: {chip.name} has no memory {name!r}{did_you_mean(name, known)}")
    for name in known:
        if given.count(name) != 1:
            raise MappingError(f"level: {name} must stand once, stands {given.count(name)} times")
    orders = [[known[i] for i in reversed(order)] for order in nestings(chip)]
    if given not in orders:
        raise MappingError(f"level: memories lie in the order {', '.join(orders[0])}, outermost first")


def _tile(
    level: Level, trips: dict[str, float], names: list[str], q: Problems, outside: str, outer: tuple[float, ...]
) -> None:
    for i, (name, size, around) in enumerate(zip(names, level.tile, outer, strict=True)):
        where = f"{level.memory}.tile.{name}"
        if size > around:
            raise MappingError(f"{where}: is {number(size)}, larger than the {number(around)} of {outside}")
        if size != around and not float(size).is_integer():
            raise MappingError(f"{where}: is {number(size)}, must be a whole number")
        if size < around and i in (4, 5) and q.strides[i - 4, 0] == 0:
            raise MappingError(f"{where}: the window of an input gradient is an average and cannot be cut; write "
                               f"{number(around)}")  # fmt: skip
        turns, needed = trips.get(name, 1.0), math.ceil(around / size - 1e-9)
        if turns < needed:
            raise MappingError(
                f"{level.memory}.loops: {name} turns {number(turns)} times, tiles of {number(size)} then cover "
                f"{number(turns * size)} of {number(around)}; it takes {needed}"
            )
        if turns > needed:
            raise MappingError(
                f"{level.memory}.loops: {name} turns {number(turns)} times, but {needed} tiles of {number(size)} cover "
                f"the {number(around)}"
            )


def _room(level: Level, q: Problems, chip: Accelerator) -> None:
    memory = next(m for m in chip.memories if m.name == level.memory)
    tile = np.array(level.tile)[:, None]
    bits = {o: float(b[0]) for o, b in zip(OPERANDS, tile_bits(q, tile), strict=True) if o in memory.holds}
    least = np.minimum(np.maximum(q.unit[:, 0], 1), q.loops[:, 0])
    least[4:6] = np.where(q.strides[:, 0] == 0, q.loops[4:6, 0], least[4:6])
    if sum(bits.values()) > memory.tile_bits * (1 + 1e-9) and (tile[:, 0] > least).any():
        parts = ", ".join(f"{o} {b / BITS_PER_KIB:,.4g}" for o, b in bits.items())
        half = " (half of it: the next tile is loaded meanwhile)" if memory.double_buffer else ""
        raise MappingError(
            f"{level.memory}.tile: takes {sum(bits.values()) / BITS_PER_KIB:,.4g} KiB ({parts}), and "
            f"{level.memory} has room for {memory.tile_bits / BITS_PER_KIB:,.4g}{half}"
        )


def _registers(m: MappingFile, q: Problems, chip: Accelerator) -> None:
    stays, spans, _ = WAYS[m.nest.way]
    index, room = indices_of(m.which), words(q, chip)[stays]
    for name, n in zip((index[i] for i in spans), m.nest.steps, strict=True):
        if not float(n).is_integer():
            raise MappingError(f"registers.steps.{name}: is {number(n)}, must be a whole number")
    taken = math.prod(m.nest.steps)
    if taken > room:
        raise MappingError(
            f"registers.steps: {' x '.join(number(n) for n in m.nest.steps)} steps need {number(taken)} words of "
            f"{stays}, a multiplier has {number(room)}"
        )


def _blocks(m: MappingFile, q: Problems) -> None:
    index = indices_of(m.which)
    pixels, window, filters = (float(q.loops[part, 0].prod()) for part in (slice(0, 3), slice(3, 6), slice(6, 7)))
    whole = {index[i]: n for i, n in zip(("g1", "g2", "red"), (pixels, filters, window), strict=True)}
    if q.window_first[0]:
        whole[index["g1"]], whole[index["red"]] = window, pixels
    inner = [level.memory for level in reversed(m.nest.levels)]
    where = (["registers"] if len(m.nest.blocks) > len(inner) else []) + inner
    for name, block in zip(where, m.nest.blocks, strict=True):
        for loop, size, most in zip(whole, block, whole.values(), strict=True):
            if size > most * (1 + 1e-9):
                raise MappingError(f"{name}.block.{loop}: is {number(size)}, longer than the layer's {number(most)}")
