"""A mapping as a TOML file, written and read; what a file says is checked loop by loop and memory by memory.

    hardware = "horowitz-45nm"        # whose memories the levels name
    network = "resnet50"
    layer = "layer2.1.conv2"
    pass = "forward"
    batch = 64
    format = "int8"                   # left out: the widest that the accelerator has
    model = "search"
    problem = { N = 64, P = 28, Q = 28, C = 128, R = 3, S = 3, K = 128 }     # per group

    [[level]]                         # memories, outermost first
    memory = "buffer"
    loops = ["N 64", "K 2"]           # around its tiles, outermost first: each loop that turns, and how often
    tile = { N = 1, P = 28, Q = 28, C = 128, R = 3, S = 3, K = 64 }

    [registers]
    stays = "sums"                    # the operand that stays
    steps = { NPQ = 16, K = 1 }       # steps of the array that its words span
    innermost = "K"                   # the loop that runs fastest inside

A mapping of the closed formulas has blocks in place of loops: `block = { NPQ = ..., K = ..., CRS = ... }`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hw_models.accelerator.toml_writer import quoted
from hw_models.errors import HardwareError, did_you_mean
from hw_models.mapping.array_mapping import WAYS
from hw_models.mapping.nest import GROUPS, Level, Nest
from hw_models.precision.formats import PASSES
from hw_models.workload.training_passes import INDEX, LOOPS

KEYS = ("schema", "hardware", "network", "layer", "pass", "batch", "format", "model", "problem", "level", "registers")
MAX_BYTES = 64 * 1024


class MappingError(HardwareError):
    """A mapping that cannot be run: which level, loop or key, and why."""


@dataclass(frozen=True)
class MappingFile:
    """What a mapping file says; `nest` in the places of the pass, `trips` of each level by loop."""

    hardware: str
    network: str
    layer: str
    which: str
    batch: float
    bits: str | None
    model: str
    problem: tuple[float, ...]
    nest: Nest
    trips: tuple[dict[str, float], ...] = ()


def names_of(which: str) -> list[str]:
    """The loops of a contraction by place, as a layer names them."""
    return list(LOOPS[which])


def indices_of(which: str) -> dict[str, str]:
    """g1, g2 and red by the letters of their loops, such as NPQ."""
    names = names_of(which)
    return {index: "".join(names[i] for i in group) for index, group in zip(INDEX[which], _BY_INDEX, strict=True)}


_BY_INDEX = (GROUPS[0], GROUPS[1], GROUPS[2])  # pixels, window, filters: in the order of INDEX


def number(value: float) -> str:
    return repr(int(value)) if float(value).is_integer() else repr(float(value))


def _inline(values: Mapping[str, float]) -> str:
    return "{ " + ", ".join(f"{name} = {number(v)}" for name, v in values.items()) + " }"


def text_of(m: MappingFile) -> str:
    """The file; reading it gives `m` back."""
    names, index = names_of(m.which), indices_of(m.which)
    lines = [
        "schema = 1",
        f"hardware = {quoted(m.hardware)}",
        f"network = {quoted(m.network)}",
        f"layer = {quoted(m.layer)}",
        f'pass = "{m.which}"',
        f"batch = {number(m.batch)}",
        *([] if m.bits is None else [f"format = {quoted(m.bits)}"]),
        f'model = "{m.model}"',
        f"problem = {_inline(dict(zip(names, m.problem, strict=True)))}      # per group",
    ]
    if m.nest.blocks:
        at_array = len(m.nest.blocks) > len(m.nest.levels)
        for level, block in zip(m.nest.levels, reversed(m.nest.blocks[at_array:]), strict=True):
            lines += ["", "[[level]]", f'memory = "{level.memory}"', f"block = {_block(block, index)}"]
        if at_array:
            lines += ["", "[registers]", f"block = {_block(m.nest.blocks[0], index)}"]
        return "\n".join(lines) + "\n"
    for level, trips in zip(m.nest.levels, m.trips, strict=True):
        loops = ", ".join(f'"{name} {number(n)}"' for name, n in trips.items())
        lines += [
            "", "[[level]]", f'memory = "{level.memory}"', f"loops = [{loops}]",
            f"tile = {_inline(dict(zip(names, level.tile, strict=True)))}",
        ]  # fmt: skip
    stays, (first, second), innermost = WAYS[m.nest.way]
    if m.nest.registers:
        lines += [
            "", "[registers]", f'stays = "{stays}"',
            f"steps = {_inline({index[first]: m.nest.steps[0], index[second]: m.nest.steps[1]})}",
            f'innermost = "{index[innermost]}"',
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _block(block: Sequence[float], index: Mapping[str, str]) -> str:
    return _inline(dict(zip((index["g1"], index["g2"], index["red"]), block, strict=True)))


def read_mapping(path: str | Path) -> MappingFile:
    """The mapping in a file; raises `MappingError` with the file and key of what is wrong."""
    file = Path(path)
    try:
        raw = file.read_bytes()[: MAX_BYTES + 1]
        data = tomllib.loads(raw.decode("utf-8"))
    except OSError as error:
        raise MappingError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise MappingError(f"{file}: not valid TOML: {error}") from error
    if len(raw) > MAX_BYTES:
        raise MappingError(f"{file}: larger than {MAX_BYTES // 1024} KiB, which no mapping is")
    try:
        return _parsed(data)
    except MappingError as error:
        raise MappingError(f"{file}: {error}") from error


def _parsed(data: Mapping[str, Any]) -> MappingFile:
    _known(data, KEYS, "")
    which = _text(data, "pass", PASSES)
    model = _text(data, "model", ("search", "closed"))
    batch = data.get("batch")
    if isinstance(batch, bool) or not isinstance(batch, int | float) or not 0 < batch <= 1e7:
        raise MappingError(f"batch: is {batch!r}, must be a number of images")
    bits = None if data.get("format") is None else _text(data, "format")
    levels = data.get("level")
    if not isinstance(levels, list) or not levels or not all(isinstance(level, dict) for level in levels):
        raise MappingError("level: needs a table [[level]] for each memory, outermost first")
    names, index = names_of(which), indices_of(which)
    problem = _loops(data, "problem", names, "problem")
    registers = data.get("registers")
    if registers is not None and not isinstance(registers, dict):
        raise MappingError("registers: must be a table")
    common = (
        _text(data, "hardware"), _text(data, "network"), _text(data, "layer"), which, float(batch), bits, model,
        problem,
    )  # fmt: skip
    if model == "closed":
        return MappingFile(*common, _blocks(levels, registers, index))
    read, all_trips = [], []
    for i, level in enumerate(levels):
        memory = _text(level, "memory", where=f"level {i + 1}.")
        _known(level, ("memory", "loops", "tile"), f"{memory}.")
        trips = _trips(level.get("loops"), names, memory)
        tile = _loops(level, "tile", names, f"{memory}.tile")
        read.append(Level(memory, tile, tuple(names.index(loop) for loop in trips)))
        all_trips.append(trips)
    return MappingFile(*common, _in_registers(tuple(read), registers, index), tuple(all_trips))


def _in_registers(levels: tuple[Level, ...], registers: Mapping[str, Any] | None, index: Mapping[str, str]) -> Nest:
    if registers is None:
        return Nest(levels, registers=False)
    _known(registers, ("stays", "steps", "innermost"), "registers.")
    stays = _text(registers, "stays", tuple(dict.fromkeys(w[0] for w in WAYS)), "registers.")
    ways = {index[w[2]]: i for i, w in enumerate(WAYS) if w[0] == stays}
    way = ways[_text(registers, "innermost", tuple(ways), "registers.")]
    spans = [index[i] for i in WAYS[way][1]]
    steps = _loops(registers, "steps", spans, "registers.steps")
    return Nest(levels, way, (steps[0], steps[1]))


def _blocks(levels: Sequence[Mapping[str, Any]], registers: Mapping[str, Any] | None, index: Mapping[str, str]) -> Nest:
    order = [index["g1"], index["g2"], index["red"]]
    read, blocks = [], []
    for i, level in enumerate(levels):
        memory = _text(level, "memory", where=f"level {i + 1}.")
        _known(level, ("memory", "block"), f"{memory}.")
        read.append(Level(memory, (), ()))
        blocks.append(_three(_loops(level, "block", order, f"{memory}.block")))
    if registers is not None:
        _known(registers, ("block",), "registers.")
        blocks.append(_three(_loops(registers, "block", order, "registers.block")))
    return Nest(tuple(read), blocks=tuple(reversed(blocks)), registers=registers is not None)


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    return values[0], values[1], values[2]


def _known(data: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in data:
        if key not in keys:
            raise MappingError(f"{where}{key}: is not a known key{did_you_mean(key, keys)}")


def _text(data: Mapping[str, Any], key: str, choices: Sequence[str] = (), where: str = "") -> str:
    value = data.get(key)
    if not isinstance(value, str) or not value or len(value) > 1000 or not value.isprintable():
        raise MappingError(f"{where}{key}: {'is missing' if value is None else 'must be a text'}")
    if choices and value not in choices:
        raise MappingError(f"{where}{key}: is {value!r}, must be one of {', '.join(choices)}")
    return value


def _loops(data: Mapping[str, Any], key: str, names: Sequence[str], where: str) -> tuple[float, ...]:
    given = data.get(key)
    if not isinstance(given, dict):
        raise MappingError(f"{where}: must be a table of {', '.join(names)}")
    _known(given, names, f"{where}.")
    for name in names:
        value = given.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e15:
            raise MappingError(f"{where}.{name}: is {value!r}, must be a positive number")
    return tuple(float(given[name]) for name in names)


def _trips(given: Any, names: Sequence[str], memory: str) -> dict[str, float]:
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise MappingError(f'{memory}.loops: must be a list of loops and how often each turns, such as ["K 4", "N 64"]')
    trips: dict[str, float] = {}
    for one in given:
        name, _, count = one.partition(" ")
        if name not in names:
            raise MappingError(f"{memory}.loops: {one!r} names no loop of this pass ({', '.join(names)})")
        if name in trips:
            raise MappingError(f"{memory}.loops: {name} stands twice")
        if not count.strip().isdecimal() or not 0 < int(count) < 10**15:
            raise MappingError(f"{memory}.loops: {one!r} must be a loop and how often it turns, such as {name} 4")
        trips[name] = float(int(count))
    return trips
