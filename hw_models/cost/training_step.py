"""One training step on one accelerator: energy, traffic and time by layer, pass and component.

Energy is a sum of counts times constants (pJ), and the counts do not depend on the constants. So a `Cost`
keeps, for every constant of the profile, how often each layer and pass used it: totals, breakdowns, bands
and sensitivities are all sums over that table, and rows sum to totals by construction (checked anyway).

The ladder of models: `macs` (multiply-accumulates only), `compulsory` (+ every tensor once per use from
DRAM, pointwise work, optimizer), `closed` (+ registers, buffers and refetches by the closed formulas of
`hw_models.mapping.closed_form`), `search` (the same by an exhaustive search over tiles and loop orders).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hw_models import REUSE_MODELS
from hw_models.accelerator.description import Accelerator
from hw_models.accelerator.loader import load
from hw_models.cost.step_cost import LIMITS, STAGES, Cost, Part
from hw_models.cost.vector_ops import QUANTISE, UPDATE_ADD, UPDATE_MULTIPLY, pointwise
from hw_models.errors import HardwareError
from hw_models.mapping.closed_form import Capacities
from hw_models.mapping.mapper import map_passes
from hw_models.mapping.spatial import grid, register_sharing
from hw_models.mapping.traffic import Mapped, Widths, steps
from hw_models.precision.formats import PASSES, Bits, Format, Precision, Rule, mac_key, parse_precision
from hw_models.units import PJ
from hw_models.workload.layer import KINDS, Layer
from hw_models.workload.shapes import Array, Shapes, shapes
from hw_models.workload.training_passes import Passes, passes

MATMUL = KINDS.index("matmul")  # kinds before it have weights
MODELS = tuple(REUSE_MODELS)


def training_cost(
    layers: Sequence[Layer] | Shapes,
    chip: Accelerator | str,
    bits: Bits = None,
    batch: float = 256,
    model: str = "closed",
    *,
    hypothetical: bool = False,
    l1: bool = False,
) -> Cost:
    """The cost of one training step (forward, two backward passes, update) on a batch of `batch` images.

    `bits`: None, a training's precision ("fp8"), an integer width or other format for everything, or a precision
    record; see `hw_models.precision.formats`. `l1`: with the subgradient on the
    BatchNorm scales. Raises `FormatError` for formats that the accelerator lacks (unless `hypothetical`).
    """
    if model not in MODELS:
        raise HardwareError(f"unknown reuse model {model!r}; choose one of {', '.join(MODELS)}")
    if not (np.isfinite(batch) and batch > 0):
        raise HardwareError(f"batch is {batch}, must be a positive number of images")
    chip = load(chip)
    table, precision = shapes(layers), parse_precision(bits)
    cost = assemble(table, chip, precision, float(batch), model, hypothetical, l1)
    if table.columns.ndim == 2:
        cost.check()
    return cost


def assemble(
    table: Shapes,
    chip: Accelerator,
    precision: Precision,
    batch: float,
    model: str,
    hypothetical: bool = False,
    l1: bool = False,
    capacities: Capacities = None,
) -> Cost:
    """`training_cost` on prepared arguments: arrays may hold many candidates, `capacities` many buffer sizes."""
    p = passes(table, batch, chip.zero_skip)
    if precision.layers:
        precision = precision.on([table.names[i] for i in p.index if table.kind[i] < MATMUL])
    rules = _Rules(
        [precision.rule(table.names[i]) for i in p.index] if precision.layers else [precision.default], len(p.index)
    )
    bits = _widths(p, precision, rules)
    parts = _mac_parts(p, chip, rules, hypothetical)
    shape = (len(STAGES), *table.columns.shape[1:])
    dram = np.zeros(shape)
    limits = np.zeros((len(LIMITS), *shape))
    if model != "macs":
        parts += _vector_parts(table, chip, precision, batch, l1, dram)
        mapped = map_passes(p, bits, chip, model, capacities)
        if model != "compulsory" and chip.kind == "array":  # a device's pJ per FLOP include its chip
            parts += _memory_parts(p, bits, chip, mapped)
        dram[:3, ..., p.index] += mapped.to_dram(chip).total
        for limit, alone in zip(limits, _times(p, chip, rules, mapped), strict=False):
            limit[:3, ..., p.index] = alone
        parts.append(Part("dram.pj_per_bit", "dram", chip.dram, dram, None))
    limits[2] = dram / chip.dram_bits_per_s
    seconds = (limits.max(axis=0) + chip.launch_s * (dram > 0)) * (1 + chip.half_batch / batch)
    if chip.static.value and model != "macs":
        parts.append(Part("static.watts", "static", chip.static, seconds / PJ, None))
    macs = np.zeros(shape)
    macs[:3, ..., p.index] = p.macs
    multiplied = {f for pair in precision.multiplied(table.names[i] for i in p.index) for f in pair}
    lacking = tuple(sorted({f.name for f in multiplied if not chip.supports(f)}))
    return Cost(chip, table, precision.name, batch, model, tuple(parts), dram, limits, seconds, macs, lacking)


class _Rules:
    """The precision rules of the contractions: the distinct ones, and which contraction has which."""

    def __init__(self, rules: list[Rule], count: int) -> None:
        numbers = {id(rule): i for i, rule in enumerate({id(r): r for r in rules}.values())}
        self.distinct = list({id(r): r for r in rules}.values())
        self.which = np.array([numbers[id(r)] for r in rules]) if len(rules) > 1 else np.zeros(count, dtype=int)

    def spread(self, p: Passes, values: Any) -> Array:
        """Values [pass][rule] -> an array that fits those of `p`."""
        array = np.array(values, dtype=np.float64)[:, self.which]
        return array[(slice(None),) + (None,) * (p.macs.ndim - 2)]


def _widths(p: Passes, precision: Precision, rules: _Rules) -> Widths:
    """Bits of X, Y, Z and accumulator."""
    x, y = ([[r.operands[i][side].bits for r in rules.distinct] for i in range(3)] for side in (0, 1))
    out = [r.output.bits for r in rules.distinct]
    acc = [[r.accumulator.bits for r in rules.distinct]] * 3
    z = [out, out, [precision.gradient.bits] * len(out)]
    return Widths(*(rules.spread(p, values) for values in (x, y, z, acc)))


def _mac_parts(p: Passes, chip: Accelerator, rules: _Rules, hypothetical: bool) -> list[Part]:
    """Multiply-accumulates by pair of formats, and the exponent additions of block formats."""
    pairs: dict[tuple[Format, Format], list[list[float]]] = {}
    for j, rule in enumerate(rules.distinct):
        for i, pair in enumerate(rule.operands):
            pairs.setdefault(pair, [[0.0] * len(rules.distinct) for _ in PASSES])[i][j] = 1.0
    parts = []
    for (x, y), places in pairs.items():
        counts = p.macs * rules.spread(p, places)
        parts.append(Part(mac_key(x, y), "mac", chip.mac(x, y, hypothetical), counts, p.index))
        if "bfp" in (x.kind, y.kind):
            block = min(b for b in (x.block, y.block, np.inf) if b)
            adds = counts / np.minimum(np.maximum(p.red, 1.0), block)
            parts.append(Part("op.integer", "mac", chip.ops["integer"], adds, p.index))
    return parts


def _memory_parts(p: Passes, bits: Widths, chip: Accelerator, mapped: Mapped) -> list[Part]:
    """Registers (read X and Y, read and write a sum at every product that has one), network and buffers."""
    inner = mapped.boundaries[0]
    serves = register_sharing(p, chip)
    used = (p.macs * b / n for b, n in zip((bits.x, bits.y, 2 * bits.acc), serves, strict=True))
    parts = [
        Part(f"registers.{name}", "register", r.pj_per_bit, n, p.index)
        for (name, r), n in zip(chip.registers.items(), used, strict=True)
        if r.bits
    ]
    if chip.network is not None:
        parts.append(Part("network.pj_per_bit", "interconnect", chip.network, inner.total, p.index))
    for memory, outer in zip(chip.memories, mapped.boundaries[1:], strict=True):
        inside, outside = inner.only(memory.holds), outer.only(memory.holds)
        parts.append(
            Part(f"memory.{memory.name}.read", "buffer", memory.read, inside.inward + outside.outward, p.index)
        )
        parts.append(
            Part(f"memory.{memory.name}.write", "buffer", memory.write, inside.outward + outside.inward, p.index)
        )
        inner = inner.replaced(outer, memory.holds)
    return parts


def _times(p: Passes, chip: Accelerator, rules: _Rules, mapped: Mapped) -> tuple[Array, Array]:
    """Seconds that the array alone would take, and its slowest buffer alone."""
    rate = rules.spread(p, [[chip.rate(*r.operands[i]) for r in rules.distinct] for i in range(3)])
    if chip.kind == "device":
        return p.macs / rate, np.zeros_like(p.macs)
    moving = np.zeros_like(p.macs)
    for memory, inner in zip(chip.memories, mapped.boundaries, strict=False):
        moving = np.maximum(moving, inner.only(memory.holds).total / memory.bits_per_cycle)
    return steps(p, grid(p, chip)) / rate / chip.clock_hz, moving / chip.clock_hz


def _vector_parts(
    table: Shapes, chip: Accelerator, precision: Precision, batch: float, l1: bool, dram: Array
) -> list[Part]:
    """Pointwise layers, quantizers and the update; their traffic is added to `dram` in place."""
    moves = pointwise(table, chip.fused)
    layer_bits = _by_layer(table, precision, lambda r: r.output.bits)
    dram[:2] += moves.elements * layer_bits * batch
    weights = table.weights
    multiply, add, compare = np.zeros((3, *dram.shape))
    multiply[:2], add[:2], compare[:2] = (m * batch for m in (moves.multiply, moves.add, moves.compare))
    multiply[3] += UPDATE_MULTIPLY * weights
    add[3] += UPDATE_ADD * weights
    if l1:
        add[3] += np.where(table.kind == KINDS.index("bn"), weights / 2, 0.0)
    dram[3] += weights * (precision.gradient.bits + 2 * precision.momentum.bits + 2 * precision.stored.bits)
    parts = [
        Part(f"op.{name}", "vector", chip.ops[name], counts, None)
        for name, counts in (("multiply", multiply), ("add", add), ("compare", compare))
    ]
    return parts + _quantizer_parts(table, chip, precision, batch, dram)


def _by_layer(table: Shapes, precision: Precision, value: Callable[..., float]) -> Array:
    """A number of each layer's rule, [layers] (or one for all)."""
    if not precision.layers:
        return np.array(value(precision.default), dtype=np.float64)
    return np.array([value(precision.rule(name)) for name in table.names], dtype=np.float64)


def _quantizer_parts(table: Shapes, chip: Accelerator, precision: Precision, batch: float, dram: Array) -> list[Part]:
    """Range, scale, round and clamp of every quantized tensor; a pass over it where its width changes."""
    if not precision.quantized:
        return []
    elements, random = np.zeros((2, *dram.shape))
    on = table.contraction
    out_bits = _by_layer(table, precision, lambda r: r.output.bits)
    sources: dict[str, tuple[int, Array, Array, Callable[[Rule], Format]]] = {
        # role -> (pass whose row it is, elements, bits before, format after)
        "activation": (0, table.inputs * batch, out_bits, lambda r: r.operands[0][0]),
        "weight": (3, table.weights, np.array(precision.stored.bits), lambda r: r.operands[0][1]),
        "error": (1, table.outputs * batch, out_bits, lambda r: r.operands[1][0]),
        "output": (0, table.outputs * batch, out_bits, lambda r: r.output),  # on its way out: no pass of its own
    }
    for role, (stage, n, before, after) in sources.items():
        if how := precision.quantized.get(role):
            bits = _by_layer(table, precision, lambda r, after=after: after(r).bits)
            n = n * on * _by_layer(table, precision, lambda r, after=after: after(r).hardware != "fp32")
            elements[stage] += n
            random[stage] += n * (how == "stochastic")
            dram[stage] += n * (before + bits) * (before != bits)
    for role in ("gradient", "momentum", "stored"):  # inside the update, which moves them anyway
        if how := precision.quantized.get(role):
            elements[3] += table.weights * on
            random[3] += table.weights * on * (how == "stochastic")
    parts = [Part(f"op.{op}", "quantiser", chip.ops[op], elements * times, None) for op, times in QUANTISE.items()]
    return [*parts, Part("op.random", "quantiser", chip.ops["random"], random, None)]
