"""One training step on one accelerator: energy, traffic and time by layer, pass and component.

Energy is a sum of counts times constants (pJ), and the counts do not depend on the constants. So a `Cost`
keeps, for every constant of the profile, how often each layer and pass used it: totals, breakdowns, bands
and sensitivities are all sums over that table, and rows sum to totals by construction (checked anyway).

The reuse models, from the simplest on: `macs` (multiply-accumulates only), `compulsory` (+ every tensor once per use
from DRAM, pointwise work, optimizer), `closed` (+ registers, buffers and refetches by the closed formulas of
`hw_models.mapping.closed_form`), `search` (the same by an exhaustive search over tiles and loop orders).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hw_models import REUSE_MODELS
from hw_models.accelerator.description import Accelerator
from hw_models.accelerator.loader import load
from hw_models.cost.fusion import fuse as fused
from hw_models.cost.step_cost import LIMITS, STAGES, ConstantUse, Cost
from hw_models.cost.tensor_bits import TensorBits
from hw_models.cost.time import busy, port_bits, ports_busy, waiting
from hw_models.cost.vector_ops import QUANTIZE, TRY, UPDATE, pointwise
from hw_models.errors import HardwareError
from hw_models.mapping.bursts import whole_bursts
from hw_models.mapping.closed_form import Capacities
from hw_models.mapping.mapper import map_passes
from hw_models.mapping.spatial import register_sharing
from hw_models.mapping.traffic import Mapped, Widths
from hw_models.precision.formats import (
    PASSES,
    Bits,
    Format,
    LayerFormats,
    Precision,
    mac_key,
    parse_precision,
)
from hw_models.precision.record_schema import OPERAND_ROLES, UPDATE_ROLES
from hw_models.units import PJ
from hw_models.workload.layer import KINDS, Layer
from hw_models.workload.shapes import Array, Shapes, shapes
from hw_models.workload.training_passes import Passes, passes

ROUNDED_IN = {**{phase: i for i, phase in enumerate(PASSES)}, "update": 3}  # pass -> stage of the step
MATMUL = KINDS.index("matmul")  # kinds before it have weights
MODELS = tuple(REUSE_MODELS)
FUSED = "+fused"  # ends the name of a reuse model whose layers are fused


def training_cost(
    layers: Sequence[Layer] | Shapes,
    chip: Accelerator | str,
    bits: Bits = None,
    batch: float = 256,
    model: str = "closed",
    *,
    hypothetical: bool = False,
    l1: bool = False,
    fuse: bool = False,
) -> Cost:
    """The cost of one training step (forward, two backward passes, update) on a batch of `batch` images.

    `bits`: None, a training's precision ("fp8"), an integer width or other format for everything, or a precision
    record; see `hw_models.precision.formats`. `l1`: with the subgradient on the BatchNorm scales. `fuse` (or a `model`
    "closed+fused"): layers fused depth-first within the memories, see `hw_models.cost.fusion` for the limits.
    Raises `FormatError` for formats that the accelerator lacks (unless `hypothetical`), `HardwareError` where nothing
    could ever be fused (a device, no memory that keeps weights).
    """
    model, fuse = reuse_model(model, fuse)
    if model not in MODELS:
        raise HardwareError(f"unknown reuse model {model!r}; choose one of {', '.join(MODELS)}")
    if not (np.isfinite(batch) and batch > 0):
        raise HardwareError(f"batch is {batch}, must be a positive number of images")
    chip = load(chip)
    table, precision = shapes(layers), parse_precision(bits)
    cost = assemble(table, chip, precision, float(batch), model, hypothetical, l1)
    if table.columns.ndim == 2:
        cost.check()
    if not fuse:
        return cost
    return replace(fused(cost, rows_of(layers), precision)[0], model=model + FUSED)


def reuse_model(model: str, fuse: bool = False) -> tuple[str, bool]:
    """A reuse model as it is named in a record, "closed" or "closed+fused": the model, and whether layers are fused."""
    return model.removesuffix(FUSED), fuse or model.endswith(FUSED)


def rows_of(layers: Sequence[Layer] | Shapes) -> Sequence[Layer]:
    """The rows of a layer table; `HardwareError` for a table of numbers, which does not say who reads what."""
    if isinstance(layers, Shapes):
        raise HardwareError("layers are fused by who reads what: pass the layers themselves, not their shapes")
    return layers


def assemble(
    table: Shapes,
    chip: Accelerator,
    precision: Precision,
    batch: float,
    model: str,
    hypothetical: bool = False,
    l1: bool = False,
    capacities: Capacities = None,
    mapped: Mapped | None = None,
) -> Cost:
    """`training_cost` on prepared arguments: arrays may hold many candidates, `capacities` many buffer sizes.

    `mapped`: how the contractions of `contractions` are mapped, if not by `model`.
    """
    p, bits, precision, rules = _contractions(table, chip, precision, batch)
    parts = _mac_parts(p, chip, rules, hypothetical)
    if precision.partial_sums is not None:
        parts += _sum_parts(p, chip, rules, precision.partial_sums)
    shape = (len(STAGES), *table.columns.shape[1:])
    dram = np.zeros((2, *shape))  # bits read and written
    limits = np.zeros((len(LIMITS), *shape))
    waits, covered = np.zeros(shape), np.zeros(shape)
    ports = np.zeros((len(chip.memories), *shape))
    if model != "macs":
        parts += _vector_parts(table, chip, precision, batch, l1, dram)
        mapped = map_passes(p, bits, chip, model, capacities) if mapped is None else mapped
        if model != "compulsory" and chip.kind == "array":  # a device's pJ per FLOP include its chip
            parts += _memory_parts(p, bits, chip, mapped)
        outside = mapped.to_dram(chip)
        if mapped.runs and chip.burst_bits > 1:
            outside = whole_bursts(outside, mapped.runs, chip.burst_bits)  # type: ignore[arg-type]
        dram[0][:3, ..., p.index] += outside.inward
        dram[1][:3, ..., p.index] += outside.outward
        rate = rules.spread(p, [[chip.rate(*r.operands[i]) for r in rules.distinct] for i in range(3)])
        for limit, alone in zip(limits, busy(p, bits, chip, rate, mapped), strict=False):
            limit[:3, ..., p.index] = alone
        for limit, alone in zip(ports, ports_busy(p, bits, chip, mapped), strict=False):
            limit[:3, ..., p.index] = alone
        waits[:3, ..., p.index], covered[:3, ..., p.index] = waiting(p, chip, mapped)
        parts += _dram_parts(chip, dram)
    moved = dram.sum(axis=0)
    limits[2] = np.maximum(moved / chip.dram_bits_per_s - covered, 0.0)
    seconds = (limits.max(axis=0) + waits + chip.launch_s * (moved > 0)) * (1 + chip.half_batch / batch)
    if model != "macs":
        parts += [ConstantUse(key, "static", watts, seconds / PJ, None) for key, watts in chip.leakage]
    macs = np.zeros(shape)
    macs[:3, ..., p.index] = p.macs
    multiplied = {f for pair in precision.multiplied(table.names[i] for i in p.index) for f in pair}
    lacking = tuple(sorted({f.name for f in multiplied if not chip.supports(f)}))
    return Cost(
        chip, table, precision.name, batch, model, tuple(parts), moved, limits, seconds, macs, lacking, waits, ports
    )


def contractions(table: Shapes, chip: Accelerator, precision: Precision, batch: float) -> tuple[Passes, Widths]:
    """The contractions of a step, and the widths of their operands."""
    return _contractions(table, chip, precision, batch)[:2]


def _contractions(
    table: Shapes, chip: Accelerator, precision: Precision, batch: float
) -> tuple[Passes, Widths, Precision, _Rules]:
    p = passes(table, batch, chip.zero_skip)
    if precision.layers:
        precision = precision.on([table.names[i] for i in p.index if table.kind[i] < MATMUL])
    rules = _Rules(
        [precision.default]
        if precision.uniform
        else [precision.rule(table.names[i], KINDS[table.kind[i]]) for i in p.index],
        len(p.index),
    )
    return p, _widths(p, rules), precision, rules


class _Rules:
    """The precision rules of the contractions: the distinct ones, and which contraction has which."""

    def __init__(self, rules: list[LayerFormats], count: int) -> None:
        numbers = {id(rule): i for i, rule in enumerate({id(r): r for r in rules}.values())}
        self.distinct = list({id(r): r for r in rules}.values())
        self.which = np.array([numbers[id(r)] for r in rules]) if len(rules) > 1 else np.zeros(count, dtype=int)

    def spread(self, p: Passes, values: Any) -> Array:
        """Values [pass][rule] -> an array that fits those of `p`."""
        array = np.array(values, dtype=np.float64)[:, self.which]
        return array[(slice(None),) + (None,) * (p.macs.ndim - 2)]


def _widths(p: Passes, rules: _Rules) -> Widths:
    """Bits of X, Y, Z and accumulator."""
    x, y = ([[r.operands[i][side].bits for r in rules.distinct] for i in range(3)] for side in (0, 1))
    acc = [[r.accumulator.bits for r in rules.distinct]] * 3
    z = [
        [r.output.bits for r in rules.distinct],
        [r.activation_gradient.bits for r in rules.distinct],
        [r.update[0].bits for r in rules.distinct],
    ]
    return Widths(*(rules.spread(p, values) for values in (x, y, z, acc)))


def _mac_parts(p: Passes, chip: Accelerator, rules: _Rules, hypothetical: bool) -> list[ConstantUse]:
    """Multiply-accumulates by pair of formats, and the exponent additions of block formats."""
    pairs: dict[tuple[Format, Format], list[list[float]]] = {}
    for j, rule in enumerate(rules.distinct):
        for i, pair in enumerate(rule.operands):
            pairs.setdefault(pair, [[0.0] * len(rules.distinct) for _ in PASSES])[i][j] = 1.0
    parts = []
    for (x, y), places in pairs.items():
        counts = p.macs * rules.spread(p, places)
        parts.append(ConstantUse(mac_key(x, y), "mac", chip.mac(x, y, hypothetical), counts, p.index, (x, y)))
        if "bfp" in (x.kind, y.kind):
            block = min(b for b in (x.block, y.block, np.inf) if b)
            adds = counts / np.minimum(np.maximum(p.red, 1.0), block)
            parts.append(ConstantUse("op.integer", "mac", chip.ops["integer"], adds, p.index))
    return parts


def _sum_parts(p: Passes, chip: Accelerator, rules: _Rules, how: Mapping[str, Any]) -> list[ConstantUse]:
    """What simulated accumulators do beside the MACs: the random number of each rounding, the sums of chunks."""
    simulated = rules.spread(p, [[float(r.accumulator.hardware != "fp32") for r in rules.distinct]] * 3)
    length = np.maximum(p.red, 1.0)
    chunk = how.get("chunk", 0) or np.inf
    chunks = np.ceil(length / np.minimum(chunk, length))
    sums = p.macs / length * simulated
    totals = sums * (chunks - 1)
    roundings = p.macs * simulated / how.get("step", 1) + (totals if how.get("total") == "accumulator" else 0.0)
    parts = [ConstantUse("op.add", "mac", chip.ops["add"], totals, p.index)]
    if how.get("rounding") == "stochastic":
        parts.append(ConstantUse("op.random", "mac", chip.ops["random"], roundings, p.index))
    return parts


def _memory_parts(p: Passes, bits: Widths, chip: Accelerator, mapped: Mapped) -> list[ConstantUse]:
    """Registers, network and buffers. A register of X or Y is read at every product, one of sums written at every
    product and read but for the first of each sum; a sum of one product passes by."""
    inner = mapped.boundaries[0]
    serves = register_sharing(p, chip)
    sums = p.macs / serves[2]
    again = np.maximum(sums - p.z, 0.0)
    used = (p.macs / serves[0] * bits.x, p.macs / serves[1] * bits.y, (again + sums * (p.red > 1)) * bits.acc)
    parts = [
        ConstantUse(f"registers.{name}", "register", r.pj_per_bit, n, p.index)
        for (name, r), n in zip(chip.registers.items(), used, strict=True)
        if r.bits
    ]
    if chip.network is not None:
        parts.append(ConstantUse("network.pj_per_bit", "interconnect", chip.network, inner.total, p.index))
    for memory, (reads, writes) in zip(chip.memories, port_bits(p, bits, chip, mapped), strict=True):
        parts.append(ConstantUse(f"memory.{memory.name}.read", "buffer", memory.read, reads, p.index))
        parts.append(ConstantUse(f"memory.{memory.name}.write", "buffer", memory.write, writes, p.index))
    return parts


def _dram_parts(chip: Accelerator, dram: Array) -> list[ConstantUse]:
    """The bits that DRAM reads and writes, [2, passes, ..., layers]; one part if they cost the same."""
    (read, read_pj), (write, write_pj) = chip.dram_constants
    if read == write:
        return [ConstantUse(read, "dram", read_pj, dram.sum(axis=0), None)]
    return [ConstantUse(read, "dram", read_pj, dram[0], None), ConstantUse(write, "dram", write_pj, dram[1], None)]


def _vector_parts(
    table: Shapes, chip: Accelerator, precision: Precision, batch: float, l1: bool, dram: Array
) -> list[ConstantUse]:
    """Pointwise layers, quantizers and the update; their traffic is added to `dram` in place."""
    moves = pointwise(table, chip.fused)
    widths = TensorBits(table, precision)
    width = np.stack([widths.forward, widths.backward])[_lead(table)]
    dram[0][:2] += moves.read * width * batch
    dram[1][:2] += moves.written * width * batch
    dram[1][0] += moves.index_bits[0] * batch
    dram[0][1] += moves.index_bits[1] * batch
    weights = table.weights
    multiply, add, compare = np.zeros((3, *dram.shape[1:]))
    multiply[:2], add[:2], compare[:2] = (m * batch for m in (moves.multiply, moves.add, moves.compare))
    per_weight = UPDATE[precision.optimizer]
    multiply[3] += per_weight[0] * weights
    add[3] += per_weight[1] * weights
    if l1:
        add[3] += np.where(table.kind == KINDS.index("bn"), weights / 2, 0.0)
    matrix = _matrix(table)
    thin = (weights - matrix) * precision.one_dimensional.bits  # gradient, states, weight read; states, weight written
    states = len(precision.states)
    dram[0][3] += matrix * widths.update_reads + (2 + states) * thin
    dram[1][3] += matrix * widths.update_writes + (1 + states) * thin
    parts = [
        ConstantUse(f"op.{name}", "vector", chip.ops[name], counts, None)
        for name, counts in (("multiply", multiply), ("add", add), ("compare", compare))
    ]
    return parts + _quantizer_parts(table, chip, precision, widths, batch, dram)


def _lead(table: Shapes) -> tuple[Any, ...]:
    """Puts an array [pass, rows] beside one [pass, ..., rows] of many candidates."""
    return (slice(None),) + (None,) * (table.columns.ndim - 2)


def _matrix(table: Shapes) -> Array:
    """Weights without biases of the products, zero elsewhere; those of a layer that is used again count once."""
    whole = table.K * table.C / np.maximum(table.groups, 1) * table.R * table.S
    return np.where(table.kind < MATMUL, np.minimum(whole, table.weights), 0.0)


def _quantizer_parts(
    table: Shapes, chip: Accelerator, precision: Precision, widths: TensorBits, batch: float, dram: Array
) -> list[ConstantUse]:
    """Range, scale, round and clamp of every quantized tensor; a pass over it where its width changes."""
    elements, once_scaled, tried, random = np.zeros((4, *dram.shape[1:]))
    transformed = np.zeros(dram.shape[2:])
    shape = table.weights.shape
    matrix = table.K * table.C / np.maximum(table.groups, 1) * table.R * table.S * np.ones(shape)
    trained, needed = _matrix(table), 1 - table.first
    vectors = table.weights - trained

    def add(stage: int, row: int, n: Array, how: str, fmt: Format, read: float = 0.0, written: float = 0.0) -> None:
        elements[stage, ..., row] += n
        (once_scaled if fmt.trials == 1 else tried)[stage, ..., row] += n * fmt.trials
        random[stage, ..., row] += n * (how == "stochastic")
        dram[0, stage, ..., row] += n * read
        dram[1, stage, ..., row] += n * written

    thin = precision.one_dimensional_rounding
    working = any(any(row.rounded.values() if isinstance(row, LayerFormats) else row.rounded) for row in widths.rows)
    if not thin and not working:
        return []
    remembered = np.zeros(dram.shape[1:])

    def remember(backward: int, row: int, n: Array) -> None:
        """A bit for each element says whether it was clipped: made and written, read and applied to the gradient."""
        for stage, moved in ((0, dram[1]), (backward, dram[0])):
            remembered[stage, ..., row] += n
            moved[stage, ..., row] += n

    for i, row in enumerate(widths.rows):
        inputs, outputs, once = table.inputs[..., i] * batch, table.outputs[..., i] * batch, needed[..., i]
        if isinstance(row, LayerFormats):
            operands = {
                (phase, role): fmt
                for phase, pair in zip(PASSES, row.operands, strict=True)
                for role, fmt in zip(OPERAND_ROLES[phase], pair, strict=True)
            }
            error, late = operands["input_gradient", "error"], operands["weight_gradient", "error"]
            one_copy = ("weight_gradient", "error") not in row.rounded and error == late  # which both passes read
            formats = operands | {
                ("forward", "output"): row.output,
                ("input_gradient", "activation_gradient"): row.activation_gradient,
                **{("update", role): fmt for role, fmt in zip(UPDATE_ROLES, row.update, strict=True)},
                ("update", "second_moment"): row.second_moment or row.update[1],
            }
            tensors = {  # elements, and their width before the quantizer (None: on its way out, no pass of its own)
                ("forward", "activation"): (inputs, widths.input[i]),
                ("forward", "weight"): (matrix[..., i], row.update[2].bits),
                ("forward", "output"): (outputs, None),
                ("input_gradient", "weight"): (matrix[..., i] * once, row.update[2].bits),
                ("input_gradient", "error"): (outputs * (1.0 if one_copy else once), widths.error[i]),
                ("input_gradient", "activation_gradient"): (inputs * once, None),
                ("weight_gradient", "activation"): (inputs, widths.input[i]),
                ("weight_gradient", "error"): (outputs, widths.error[i]),
                **{("update", role): (trained[..., i], None) for role in (*UPDATE_ROLES, "second_moment")},
            }
            for role in row.clipped:
                stage, n = {
                    "activation": (1, inputs * once),
                    "weight": (2, matrix[..., i]),
                    "output": (1 if once.all() else 2, outputs),
                }[role]
                remember(stage, i, n)
            for cell, how in row.rounded.items():
                n, before = tensors[cell]
                bits = operands[cell].bits if cell in operands else 0.0
                if cell[0] == "weight_gradient" and cell[1] in row.hadamard:  # log2 16 sums an element, and its sign
                    transformed[..., i] += n
                extra = () if before is None or before == bits else (before, bits)
                add(ROUNDED_IN[cell[0]], i, n, how, formats[cell], *extra)
        else:
            if row.clipped:
                remember(1, i, outputs)
            for stage, rounding in enumerate(row.rounded):
                if rounding is not None:
                    handed_on = row.backward if stage else row.forward
                    add(stage, i, outputs * (once if stage else 1.0), rounding, handed_on)
        if thin:
            add(ROUNDED_IN["update"], i, (2 + len(precision.states)) * vectors[..., i], thin, precision.one_dimensional)
    work = {
        op: (elements if op == "compare" else once_scaled) * times + TRY.get(op, 0) * tried
        for op, times in QUANTIZE.items()
    }
    work["integer"] += remembered
    if transformed.any() or tried.any():
        work["add"] = TRY["add"] * tried
        work["add"][2] += 4 * transformed
        work["multiply"][2] += transformed
    parts = [ConstantUse(f"op.{op}", "quantiser", chip.ops[op], counts, None) for op, counts in work.items()]
    return [*parts, ConstantUse("op.random", "quantiser", chip.ops["random"], random, None)]
