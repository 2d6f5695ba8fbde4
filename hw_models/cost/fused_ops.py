"""The passes of a training step as operations on rows of pixels, in the order in which they run, for layer fusion.

An operation reads tensors row of pixels by row of pixels and makes one. Forward, an output row p of a window of height
k and stride s reads the input rows p s - pad to p s - pad + k - 1. Backward, row p of the input gradient reads the
error rows whose windows cover it, (p + pad - k + 1) / s to (p + pad) / s, and the weight gradient, made along with it,
the input rows under the newest error row. A BatchNorm in training needs its input (backward: its error) as a whole
before it can scale anything, once for its statistics and once more to scale: it waits for that tensor. Where a tensor
is read by a layer and by the residual sum around it, the two gradients are summed in an operation of their own, which
the layer table books with the residual sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, log2

import numpy as np

from hw_models.cost.step_memory import MEANS, READS_INPUT, kept_tensors
from hw_models.cost.tensor_bits import TensorBits
from hw_models.precision.formats import LayerFormats, PointwiseFormats, Precision
from hw_models.workload.layer import Layer
from hw_models.workload.shapes import Array, shapes
from hw_models.workload.training_passes import passes

Cell = tuple[int, int]  # (pass, row of the table) that DRAM traffic is booked under
Rows = Callable[[Array], Array]  # of an operation -> of a tensor
SUM_BITS = 32.0  # of a statistic's sum
BY_ELEMENT = ("relu", "activation", "scale", "dropout")
WINDOWED = ("conv", "maxpool", "avgpool")


@dataclass(frozen=True)
class Read:
    """A tensor that an operation reads; `row_bits`: one row of pixels on the chip, `bits`: all of it from DRAM."""

    tensor: str
    rows: int
    row_bits: float
    bits: float
    cell: Cell
    window: int  # rows that one row of the operation needs at once
    newest: Rows  # the last row that row p of the operation needs
    oldest: Rows  # the first one


@dataclass(frozen=True)
class Op:
    """One operation; `made` is "" for a weight gradient alone. Bits are those of the whole batch, but on the chip."""

    name: str
    reads: tuple[Read, ...]
    made: str
    rows: int
    row_bits: float  # one row of what is made, as wide as its sums
    bits: float  # of what is made, to DRAM
    cell: Cell
    cells: tuple[Cell, ...]
    weights: float = 0.0  # on the chip, gradients of weights and statistics too
    loaded: dict[Cell, float] = field(default_factory=dict)  # from DRAM, fused or not
    stored: dict[Cell, float] = field(default_factory=dict)  # to DRAM, fused or not
    waits: str = ""  # for this tensor, as a whole
    kept: bool = False  # what is made must go to DRAM for a later pass


@dataclass(frozen=True)
class Statistic:
    """Sums over a tensor that its maker can gather on the way out: DRAM bits that saves, bits on the chip it needs."""

    cell: Cell
    bits: float
    on_chip: float


@dataclass(frozen=True)
class Schedule:
    """Operations in order, None where one cannot be fused; `statistics` by the tensor they are of."""

    ops: tuple[Op | None, ...]
    statistics: dict[str, Statistic]
    readers: dict[str, int]


def by_element(p: Array) -> Array:
    return p


class StepOps:
    """The forward and the backward schedule of a network at a batch size, in a precision."""

    def __init__(self, rows: Sequence[Layer], precision: Precision, batch: float, backward: bool = True) -> None:
        self.rows, self.batch = list(rows), batch
        table = shapes(self.rows)
        self.precision = precision.on([row.name for row in rows if row.kind in ("conv", "linear")])
        self.width = TensorBits(table, self.precision)
        self.number = {row.name: i for i, row in enumerate(self.rows)}
        p = passes(table, batch)
        self.touched = dict(zip(p.index.tolist(), p.x[0].tolist(), strict=True))  # strided 1 x 1 windows skip pixels
        self.kept = kept_tensors(self.rows, precision, batch) if backward else set()
        self.readers: dict[str, list[int]] = {}
        for i, row in enumerate(self.rows):
            for source in row.sources:
                self.readers.setdefault(source, []).append(i)

    # -- what can be fused -----------------------------------------------------------------------------------------

    def _fits(self, row: Layer) -> bool:
        """Whether the row works on rows of pixels, and its inputs have the shape that it says."""
        windowed = row.kind in WINDOWED and not row.adaptive and row.op not in MEANS
        if row.kind == "add":
            return len(set(row.sources)) == 2 and all(self._size(s) == row.out for s in row.sources)
        grows = row.out[0] > row.size[0] or row.out[1] > row.size[1]  # a transposed convolution
        known = windowed or row.kind in BY_ELEMENT or row.kind == "bn"
        shape = row.size if windowed else row.out
        return known and not grows and len(row.sources) == 1 and self._size(row.sources[0]) == shape

    def _size(self, tensor: str) -> tuple[int, int]:
        if tensor in self.number:
            return self.rows[self.number[tensor]].out
        return next((row.size for row in self.rows if tensor in row.sources), (0, 0))

    # -- forward -----------------------------------------------------------------------------------------------------

    def forward(self) -> Schedule:
        readers = {name: len(who) for name, who in self.readers.items()}
        ops = [self._clipping(self._forward(i, row), i, 0) if self._fits(row) else None
               for i, row in enumerate(self.rows)]  # fmt: skip
        return Schedule(tuple(ops), self._forward_statistics(), readers)

    def _forward(self, i: int, row: Layer) -> Op:
        cell = (0, i)
        elements = row.outputs * self.batch
        out = self.width.forward[i]
        index = elements * ceil(log2(max(row.kernel[0] * row.kernel[1], 1))) if row.kind == "maxpool" else 0.0
        name, waits = row.name, row.sources[0] if row.kind == "bn" else ""
        if row.kind == "conv":
            rule = self._rule(row)
            x, y = rule.operands[0]
            wide = self.width.input[i] if self._converted(i, rule, "forward", "activation", x.bits) else x.bits
            weights = _matrix(row)
            return Op(
                name,
                (self._windowed(row, cell, wide, x.bits, self.touched[i] * wide),),
                name,
                row.out[0],
                row.out[1] * row.channels[1] * rule.accumulator.bits,
                elements * out,
                cell,
                (cell,),
                weights * y.bits,
                {cell: self._weights(row, rule, "forward", y.bits)},
                {cell: self._converted_weights(row, rule, "forward", y.bits)},
                kept=name in self.kept,
            )
        reads: tuple[Read, ...]
        if row.kind in WINDOWED:
            reads = (self._windowed(row, cell, out, out, row.inputs * self.batch * out),)
        else:
            reads = tuple(self._plain(source, row, cell, out) for source in row.sources)
        again = row.inputs * self.batch * out if waits else 0.0  # the statistics
        factors = 2 * SUM_BITS * row.channels[1] if row.kind in ("bn", "scale") else 0.0
        return Op(name, reads, name, row.out[0], row.outputs / row.out[0] * out, elements * out, cell, (cell,), factors,
                  {cell: again}, {cell: index}, waits, name in self.kept)  # fmt: skip

    def _forward_statistics(self) -> dict[str, Statistic]:
        return {
            row.sources[0]: Statistic(
                (0, i), row.inputs * self.batch * self.width.forward[i], 2 * SUM_BITS * row.channels[1]
            )
            for i, row in enumerate(self.rows)
            if row.kind == "bn" and self._fits(row)
        }

    def _windowed(self, row: Layer, cell: Cell, wide: float, narrow: float, bits: float) -> Read:
        """The input of a window, as the forward pass reads it: from DRAM as `wide`, held as `narrow`."""
        high = min((row.kernel[0] - 1) * row.dilation[0] + 1, row.size[0])
        s, pad = row.stride[0], _pad(row)
        return Read(row.sources[0], row.size[0], row.size[1] * row.channels[0] * narrow, bits, cell, high,
                    lambda p: p * s - pad + high - 1, lambda p: p * s - pad)  # fmt: skip

    def _plain(self, tensor: str, row: Layer, cell: Cell, bits: float) -> Read:
        """A tensor of the shape of the row's output, read element by element."""
        n = row.outputs
        return Read(tensor, row.out[0], n / row.out[0] * bits, n * self.batch * bits, cell, 1, by_element, by_element)

    # -- backward ----------------------------------------------------------------------------------------------------

    def backward(self) -> Schedule:
        """In the order of the backward pass: the last row first, sums of gradients as soon as both are there."""
        ops: list[Op | None] = []
        self.gradient: dict[str, str] = {}
        self.summed: dict[str, tuple[int, int]] = {}  # tensor -> (the layer that reads it, the residual sum)
        statistics: dict[str, Statistic] = {}
        for tensor, who in self.readers.items():
            sums = [i for i in who if self.rows[i].kind == "add" and self._fits(self.rows[i])]
            if len(who) == 2 and sums == who[1:] and tensor in self.number:
                self.summed[tensor] = who[0], who[1]
        taken: set[int] = set()  # a residual sum books one sum of gradients
        for tensor in list(self.summed):
            if self.summed[tensor][1] in taken:
                del self.summed[tensor]
            else:
                taken.add(self.summed[tensor][1])
        for i, row in reversed(list(enumerate(self.rows))):
            if row.kind == "add" and self._fits(row):
                for source in row.sources:
                    if self.readers[source] == [i]:
                        self.gradient[source] = self._gradient(row.name)
                continue  # hands its error on as it is
            op = self._clipping(self._backward(i, row), i, 1) if self._fits(row) else None
            if op is not None or not (row.first and not row.weights):
                ops.append(op)
            if row.kind == "bn" and op is not None:
                n, bits = row.outputs * self.batch, self.width.backward[i]
                per_row = row.outputs / row.out[0] * bits
                statistics[op.waits] = Statistic((1, i), n * bits, per_row + 2 * SUM_BITS * row.channels[1])
            ops += [self._sum(tensor) for tensor, (reader, _) in self.summed.items() if reader == i]
        readers: dict[str, int] = {}
        for op in ops:
            for tensor in dict.fromkeys(read.tensor for read in op.reads) if op else ():
                readers[tensor] = readers.get(tensor, 0) + 1
        for row in self.rows:  # who is not in the schedule as an operation reads too
            if not self._fits(row):
                readers[self._gradient(row.name)] = readers.get(self._gradient(row.name), 0) + 1
        return Schedule(tuple(ops), statistics, readers)

    def _gradient(self, tensor: str) -> str:
        return self.gradient.get(tensor, f"d {tensor}")

    def _part(self, tensor: str, reader: int) -> str:
        """What `reader` makes of the gradient of `tensor`: all of it, or its part."""
        return f"d {tensor}" if len(self.readers[tensor]) == 1 else f"d {tensor} by {self.rows[reader].name}"

    def _sum(self, tensor: str) -> Op:
        reader, residual = self.summed[tensor]
        row, cell = self.rows[residual], (1, residual)
        bits = self.width.backward[residual]
        parts = (self._part(tensor, reader), self._gradient(row.name))
        reads, n = tuple(self._plain(part, row, cell, bits) for part in parts), row.outputs * bits
        return Op(f"sum at {tensor}", reads, f"d {tensor}", row.out[0], n / row.out[0], n * self.batch, cell, (cell,))

    def _backward(self, i: int, row: Layer) -> Op | None:
        if row.kind == "scale" or (row.first and not row.weights):
            return None
        error, source, cell, bits = self._gradient(row.name), row.sources[0], (1, i), self.width.backward[i]
        if row.kind == "conv":
            return self._convolution(i, row, error)
        n, made = row.outputs * self.batch, self._part(source, i)
        if row.kind in WINDOWED:
            index = n * ceil(log2(max(row.kernel[0] * row.kernel[1], 1))) if row.kind == "maxpool" else 0.0
            reads, loaded = (self._covering(row, error, cell, bits, bits, n * bits),), {cell: index}
            per_row = row.size[1] * row.channels[0] * bits
            return Op(row.name, reads, made, row.size[0], per_row, row.inputs * self.batch * bits, cell, (cell,),
                      loaded=loaded)  # fmt: skip
        first = self._plain(error, row, cell, bits)
        own = row.kind == "relu" or (row.kind == "activation" and row.op not in READS_INPUT)
        seen = () if row.kind == "dropout" else (self._plain(row.name if own else source, row, cell, bits),)
        waits = error if row.kind == "bn" else ""
        made = "" if row.first else made
        return Op(row.name, (first, *seen), made, row.out[0], row.outputs / row.out[0] * bits, n * bits, cell, (cell,),
                  2 * SUM_BITS * row.channels[1] if waits else 0.0, {cell: 2 * n * bits if waits else 0.0}, {},
                  waits)  # fmt: skip

    def _convolution(self, i: int, row: Layer, error: str) -> Op:
        """Both gradients of a convolution: they share the error."""
        rule = self._rule(row)
        (dy, w), (x, late) = rule.operands[1], rule.operands[2]
        n, one, two = row.outputs * self.batch, (1, i), (2, i)
        wide = max(
            self.width.error[i] if self._converted(i, rule, "input_gradient", "error", dy.bits) else dy.bits,
            self.width.error[i] if self._converted(i, rule, "weight_gradient", "error", late.bits) else late.bits,
        )
        held = max(dy.bits, late.bits)
        if row.first:
            reads = [self._plain(error, row, two, wide)]
        else:
            reads = [self._covering(row, error, one, wide, held, n * wide)]
        newest = reads[0].newest
        s, pad, high = row.stride[0], _pad(row), min((row.kernel[0] - 1) * row.dilation[0] + 1, row.size[0])
        stored_x = self.width.input[i] if self._converted(i, rule, "weight_gradient", "activation", x.bits) else x.bits
        last = row.out[0] - 1
        reads.append(
            Read(
                row.sources[0],
                row.size[0],
                row.size[1] * row.channels[0] * x.bits,
                self.touched[i] * stored_x,
                two,
                high,
                lambda p: np.minimum(newest(p), last) * s - pad + high - 1,
                lambda p: (np.minimum(newest(p - 1), last) + 1) * s - pad,
            )
        )
        matrix = _matrix(row)
        gradient = matrix * rule.accumulator.bits
        out = self.width.backward[i]
        written = {two: matrix * rule.update[0].bits}
        if row.first:
            return Op(row.name, tuple(reads), "", row.out[0], 0.0, 0.0, two, (one, two), gradient, {}, written)
        written[one] = self._converted_weights(row, rule, "input_gradient", w.bits)
        return Op(
            row.name,
            tuple(reads),
            self._part(row.sources[0], i),
            row.size[0],
            row.size[1] * row.channels[0] * rule.accumulator.bits,
            row.inputs * self.batch * out,
            one,
            (one, two),
            matrix * w.bits + gradient,
            {one: self._weights(row, rule, "input_gradient", w.bits)},
            written,
        )

    def _covering(self, row: Layer, error: str, cell: Cell, wide: float, narrow: float, bits: float) -> Read:
        """The error rows whose windows cover a row of the input."""
        high, s, pad = (row.kernel[0] - 1) * row.dilation[0] + 1, row.stride[0], _pad(row)
        line, window = row.out[1] * row.channels[1] * narrow, min(-(-high // s), row.out[0])
        return Read(error, row.out[0], line, bits, cell, window,
                    lambda p: np.floor((p + pad) / s), lambda p: np.ceil((p + pad - high + 1) / s))  # fmt: skip

    def _clipping(self, op: Op | None, i: int, phase: int) -> Op | None:
        """The operation with the bits that say what was clipped: to DRAM forward, from there backward, fused or not."""
        row, formats = self.rows[i], self.width.rows[i]
        elements = {"activation": row.inputs * self.batch * (not row.first), "weight": _matrix(row),
                    "output": row.outputs * self.batch}  # fmt: skip
        clipped = formats.clipped if isinstance(formats, LayerFormats) else ("output",) * bool(formats.clipped)
        if op is None or not clipped:
            return op
        if phase == 0:
            written = op.stored.get((0, i), 0.0) + sum(elements[role] for role in clipped)
            return replace(op, stored={**op.stored, (0, i): written})
        loaded = dict(op.loaded)
        for role in clipped:
            cell = (2 if role == "weight" or (role == "output" and row.first and row.macs) else 1, i)
            loaded[cell] = loaded.get(cell, 0.0) + elements[role]
        return replace(op, loaded=loaded)

    # -- widths ------------------------------------------------------------------------------------------------------

    def _rule(self, row: Layer) -> LayerFormats:
        rule = self.width.rows[self.number[row.name]]
        assert not isinstance(rule, PointwiseFormats)
        return rule

    def _converted(self, i: int, rule: LayerFormats, phase: str, role: str, bits: float) -> bool:
        """Whether the tensor comes wider or narrower than it is multiplied: a pass of its own without fusion."""
        before = self.width.error[i] if role == "error" else self.width.input[i]
        return (phase, role) in rule.rounded and before != bits

    def _weights(self, row: Layer, rule: LayerFormats, phase: str, bits: float) -> float:
        """Read from DRAM once: as they are multiplied, and before that as they are stored, where that differs."""
        return _matrix(row) * (bits + (rule.update[2].bits if self._quantized(rule, phase, bits) else 0.0))

    def _converted_weights(self, row: Layer, rule: LayerFormats, phase: str, bits: float) -> float:
        return _matrix(row) * bits * self._quantized(rule, phase, bits)

    def _quantized(self, rule: LayerFormats, phase: str, bits: float) -> bool:
        return (phase, "weight") in rule.rounded and rule.update[2].bits != bits


def _matrix(row: Layer) -> float:
    return row.channels[1] * row.channels[0] / row.groups * row.kernel[0] * row.kernel[1]


def _pad(row: Layer) -> int:
    """Rows of zeros above the input, as the sizes say."""
    high = (row.kernel[0] - 1) * row.dilation[0] + 1
    return max(0, -(-((row.out[0] - 1) * row.stride[0] + high - row.size[0]) // 2))
