"""Depth-first layer fusion: rows of pixels pass from one layer to the next on the chip, not through DRAM.

A stack is a chain of rows of the layer table, each the only reader of the one before. One image after the other runs
through it row of pixels by row of pixels; what must be on the chip at once is

    every weight of the stack (fetched once per pass)
    of each tensor inside, and of the stack's input, as many rows of pixels as its reader's window is high
    one row of pixels of the stack's output, at accumulator width

and if that fits, DRAM sees the stack's input, its weights and its output once, and of the tensors inside only those
that the backward pass needs, on their way out. Chains are cut into stacks so that DRAM traffic falls the most.

Limits. Only the forward pass is fused: a backward pass needs tensors from both ends. In training a BatchNorm ends a
stack, for its statistics are of the whole batch; in inference it is a scale. Strides, groups and pools are taken as
they are, residual sums, concatenations and transposed convolutions end a stack. Traffic on the chip, and compute, are
those without fusion; padding costs nothing. No halo is computed twice: the rows that windows share stay in the line
buffer, which is what is charged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hw_models.accelerator.description import Accelerator
from hw_models.accelerator.loader import load
from hw_models.analysis.memory import MEANS, kept_tensors
from hw_models.cost.inference import forward_cost
from hw_models.cost.step_cost import Cost
from hw_models.cost.training_step import training_cost
from hw_models.errors import HardwareError
from hw_models.precision.formats import FORMATS, Bits, Precision, parse_precision
from hw_models.workload.layer import CONTRACTIONS, Layer
from hw_models.workload.reference_networks import network
from hw_models.workload.shapes import shapes
from hw_models.workload.training_passes import passes

POINTWISE = ("relu", "activation", "scale", "dropout")
WINDOWED = ("conv", "maxpool", "avgpool")


@dataclass(frozen=True)
class Stack:
    """Rows that run depth-first: what they need on the chip, and the DRAM bits of the pass without and with it."""

    layers: tuple[str, ...]
    bits_on_chip: float
    dram_before: float
    dram_after: float


@dataclass(frozen=True)
class Fused:
    """A step or a forward pass with fused stacks; `plain` is the same without."""

    cost: Cost
    plain: Cost
    stacks: tuple[Stack, ...]


def fused_cost(
    layers: Sequence[Layer],
    chip: Accelerator,
    bits: Bits = None,
    batch: float = 256,
    model: str = "closed",
    *,
    training: bool = True,
    hypothetical: bool = False,
) -> Fused:
    """A training step (or, without `training`, a forward pass in evaluation) with its forward pass fused depth-first.

    Raises `HardwareError` for a device, whose memories are not counted, and for a chip whose memories keep no weights.
    """
    if chip.kind != "array":
        raise HardwareError(f"{chip.name} is a device: what stays on the chip is inside its measured energies")
    precision = parse_precision(bits)
    rows = list(layers)
    if training:
        plain = training_cost(rows, chip, precision, batch, model, hypothetical=hypothetical)
    else:
        rows = [replace(row, kind="scale") if row.kind == "bn" else row for row in rows if row.kind != "dropout"]
        plain = forward_cost(layers, chip, precision, batch, model, hypothetical=hypothetical)
    work = _Work(rows, chip, precision, float(batch), plain, training)
    stacks = [stack for chain in _chains(rows, training) for stack in work.best(chain)]
    return Fused(_with(plain, work, stacks), plain, tuple(stack for stack, _ in stacks))


def _chains(rows: Sequence[Layer], training: bool) -> list[list[int]]:
    """Runs of rows that could be fused: each reads the one before, and nobody else does."""
    readers = Counter(source for row in rows for source in row.sources)
    chains: list[list[int]] = []
    for i, row in enumerate(rows):
        fits = row.kind in POINTWISE or (row.kind in WINDOWED and not row.adaptive and row.op not in MEANS)
        grows = row.out[0] > row.size[0] or row.out[1] > row.size[1]  # a transposed convolution
        if not fits or grows or len(row.sources) != 1 or (row.kind == "scale" and training):
            continue
        last = rows[chains[-1][-1]] if chains else None
        if last is not None and row.sources[0] == last.name and readers[last.name] == 1:
            chains[-1].append(i)
        else:
            chains.append([i])
    return [chain for chain in chains if len(chain) > 1]


class _Work:
    """Bits of tensors, weights and traffic of the forward pass, by row."""

    def __init__(
        self, rows: list[Layer], chip: Accelerator, precision: Precision, batch: float, plain: Cost, training: bool
    ) -> None:
        self.rows, self.batch = rows, batch
        own = precision.on([row.name for row in rows if row.kind in ("conv", "linear")])
        self.in_bits, self.out_bits, self.sum_bits, self.weight_bits = (
            list(column) for column in zip(*(_bits(row, own) for row in rows), strict=True)
        )
        table = shapes(rows)
        p = passes(table, batch, chip.zero_skip)
        touched = dict(zip(p.index.tolist(), p.x[0].tolist(), strict=True))  # strided 1 x 1 windows skip pixels
        self.read = [touched.get(i, row.inputs * batch) * self.in_bits[i] for i, row in enumerate(rows)]
        self.written = [row.outputs * batch * self.out_bits[i] for i, row in enumerate(rows)]
        kept = kept_tensors(rows, precision, batch) if training else set()
        self.kept = [row.name in kept for row in rows]
        self.before = plain.dram_bits[0]
        of_weights = [m.bits for m in chip.memories if "held" in m.holds]
        of_pixels = [m.bits for m in chip.memories if {"streaming", "sums"} <= set(m.holds)]
        if not of_weights or not of_pixels:
            raise HardwareError(
                f"{chip.name}: no memory on the chip keeps weights, or none keeps activations and sums; "
                "nothing can be fused"
            )
        outer = max(chip.memories, key=lambda m: m.bits)
        self.shared = set(outer.holds) == {"streaming", "held", "sums"}
        self.room = (outer.bits, outer.bits) if self.shared else (max(of_pixels), max(of_weights))

    def on_chip(self, rows: Sequence[int]) -> tuple[float, float]:
        """(bits of rows of pixels, bits of weights) that a stack needs at once, one image."""
        lines = 0.0
        for i in rows:
            row = self.rows[i]
            high = min((row.kernel[0] - 1) * row.dilation[0] + 1, row.size[0]) if row.kind in WINDOWED else 1
            lines += high * row.size[1] * row.channels[0] * self.in_bits[i]
        last = self.rows[rows[-1]]
        lines += last.out[1] * last.channels[1] * self.sum_bits[rows[-1]]
        return lines, sum(self.weight_bits[i] for i in rows)

    def fits(self, rows: Sequence[int]) -> bool:
        lines, weights = self.on_chip(rows)
        return lines + weights <= self.room[0] if self.shared else lines <= self.room[0] and weights <= self.room[1]

    def after(self, rows: Sequence[int]) -> list[float]:
        """DRAM bits of each row of a stack; never more than without it."""
        out = []
        for i in rows:
            bits = self.weight_bits[i]
            bits += self.read[i] if i == rows[0] else 0.0
            bits += self.written[i] if i == rows[-1] or self.kept[i] else 0.0
            out.append(min(bits, float(self.before[i])))
        return out

    def best(self, chain: Sequence[int]) -> list[tuple[Stack, list[tuple[int, float]]]]:
        """The cut of a chain into stacks (of two rows at least) that saves the most."""
        n = len(chain)
        saved = [0.0] * (n + 1)
        choice = [0] * (n + 1)
        for end in range(1, n + 1):
            saved[end], choice[end] = saved[end - 1], end - 1  # a row by itself
            for start in range(end - 2, -1, -1):
                rows = chain[start:end]
                if not self.fits(rows):
                    break  # a longer stack needs more
                gain = sum(float(self.before[i]) for i in rows) - sum(self.after(rows))
                if saved[start] + gain > saved[end] + 1e-9:
                    saved[end], choice[end] = saved[start] + gain, start
        out = []
        end = n
        while end:
            rows = chain[choice[end] : end]
            if len(rows) > 1:
                after = self.after(rows)
                stack = Stack(
                    tuple(self.rows[i].name for i in rows),
                    sum(self.on_chip(rows)),
                    sum(float(self.before[i]) for i in rows),
                    sum(after),
                )
                out.append((stack, list(zip(rows, after, strict=True))))
            end = choice[end]
        return out[::-1]


def _bits(row: Layer, precision: Precision) -> tuple[float, float, float, float]:
    """Bits of an element read, written and summed by a row, and of all its weights."""
    if row.kind not in CONTRACTIONS:
        bits = precision.pointwise_row(row.name, row.kind).forward.bits
        return bits, bits, bits, 0.0
    rule = precision.rule(row.name, row.kind)
    x, y = rule.operands[0]
    weights = row.channels[1] * row.channels[0] // row.groups * row.kernel[0] * row.kernel[1]
    return x.bits, rule.output.bits, rule.accumulator.bits, weights * y.bits if row.kind == "conv" else 0.0


def _with(plain: Cost, work: _Work, stacks: Sequence[tuple[Stack, list[tuple[int, float]]]]) -> Cost:
    """The cost with the forward DRAM traffic of the stacks; time and static energy follow."""
    where = {name: i for i, name in enumerate(plain.table.names)}
    dram = plain.dram_bits.copy()
    for _, rows in stacks:
        for i, bits in rows:
            dram[0, where[work.rows[i].name]] = bits
    limits = plain.row_limits.copy()
    limits[2] = dram / plain.chip.dram_bits_per_s
    seconds = plain.row_seconds - plain.row_limits.max(axis=0) + limits.max(axis=0)
    shorter = np.divide(seconds, plain.row_seconds, out=np.ones_like(seconds), where=plain.row_seconds > 0)
    less = np.divide(dram, plain.dram_bits, out=np.ones_like(dram), where=plain.dram_bits > 0)
    parts = []
    for part in plain.parts:
        if part.component == "dram":
            part = replace(part, counts=part.counts * less[: part.counts.shape[0]])
        elif part.component == "static":
            factor = shorter[: part.counts.shape[0]]
            part = replace(part, counts=part.counts * (factor if part.index is None else factor[..., part.index]))
        parts.append(part)
    cost = replace(plain, parts=tuple(parts), dram_bits=dram, row_limits=limits, row_seconds=seconds)
    cost.check()
    return cost


def fusion_report(
    profile: str | Accelerator,
    name: str,
    bits: Bits = None,
    batch: int = 256,
    *,
    training: bool = True,
    model: str = "closed",
) -> dict[str, Any]:
    """What fusing a network (a name or a file) saves, as plain data; errors are those of `fused_cost` and `network`."""
    chip = load(profile)
    precision = parse_precision(FORMATS[chip.widest] if bits is None else bits)
    found = fused_cost(network(name), chip, precision, batch, model, training=training)
    totals = {
        "joules": (found.plain.total, found.cost.total),
        "dram_bytes": (found.plain.bytes, found.cost.bytes),
        "seconds": (found.plain.seconds, found.cost.seconds),
    }
    return {
        "accelerator": chip.name,
        "network": name,
        "precision": precision.name,
        "batch": batch,
        **{key: plain for key, (plain, _) in totals.items()},
        **{f"{key}_fused": fused for key, (_, fused) in totals.items()},
        "stacks": [
            {
                "layers": list(stack.layers),
                "on_chip_bytes": stack.bits_on_chip / 8,
                "dram_bytes": stack.dram_before / 8,
                "dram_bytes_fused": stack.dram_after / 8,
            }
            for stack in found.stacks
        ],
    }
