"""What a training step keeps from its forward pass for its backward pass, tensor by tensor.

    conv, linear, matmul, mul    its inputs               relu, sigmoid, tanh, softmax   its output
    bn, norm                     its input, statistics    gelu, silu, hardswish, ...     its input
    maxpool                      an index each            avgpool of a window            its input
    dropout                      a mask bit each          loss                           its softmax
    add, concat, mean, select    nothing

That is what an eager framework keeps; what several rows read counts once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, log2

from hw_models.precision.formats import Precision
from hw_models.workload.layer import CONTRACTIONS, INPUT, Layer

READS_INPUT = (
    "gelu",
    "silu",
    "hardswish",
    "hardsigmoid",
    "elu",
    "softplus",
    "mish",
    "Gelu",
    "Elu",
    "HardSwish",
    "HardSigmoid",
    "Softplus",
    "Mish",
    "Swish",
)  # activations whose derivative is of their input
MEANS = ("mean", "sum", "ReduceMean", "ReduceSum", "GlobalAveragePool")  # averages whose gradient needs sizes only


@dataclass(frozen=True)
class Moment:
    """Bytes of activations (kept, live and gradients) while one row runs; `phase`: forward, recompute, backward."""

    row: str
    phase: str
    bytes: float


def kept_tensors(layers: Sequence[Layer], precision: Precision, batch: float) -> set[str]:
    """Names of the rows whose outputs some backward pass reads."""
    step = StepMemory(layers, precision, batch, None)
    return set(step.saved(range(len(step.rows)))) & {row.name for row in step.rows}


def union(tables: Iterable[dict[str, float]]) -> dict[str, float]:
    out: dict[str, float] = {}
    for table in tables:
        out |= table
    return out


def _output_bits(precision: Precision, row: Layer) -> float:
    """Bits per element of a row's output."""
    if row.kind in CONTRACTIONS:
        return precision.rule(row.name, row.kind).output.bits
    return precision.pointwise_row(row.name, row.kind).forward.bits


class StepMemory:
    """Tensors with the rows that make and read them, and what each row keeps; bytes for the whole batch."""

    def __init__(self, layers: Sequence[Layer], precision: Precision, batch: float, index_bits: float | None) -> None:
        self.rows = list(layers)
        self.size = {row.name: row.outputs * batch * _output_bits(precision, row) / 8 for row in self.rows}
        first = next((row for row in self.rows if INPUT in row.sources), None)
        self.size[INPUT] = (first.inputs if first else 0) * batch * precision.default.output.bits / 8
        self.made = {INPUT: -1, **{row.name: i for i, row in enumerate(self.rows)}}
        self.read = dict(self.made)  # by whom last
        for i, row in enumerate(self.rows):
            self.read |= dict.fromkeys(row.sources, i)
        self.keeps = [self._kept(row, batch, index_bits) for row in self.rows]
        weights = sum(row.weights for row in self.rows)
        self.parameters = weights * sum(f.bits for f in (precision.stored, precision.gradient, *precision.states)) / 8

    def entering(self, rows: range) -> dict[str, float]:
        """Tensors made before `rows` that they read."""
        return {t: self.size[t] for i in rows for t in self.rows[i].sources if self.made[t] < rows.start}

    def saved(self, rows: range) -> dict[str, float]:
        """What the backward passes of `rows` read."""
        return union(self.keeps[rows.start : rows.stop])

    def gradients(self, i: int) -> dict[str, float]:
        """Gradients that exist while row `i` runs backwards: of its output, its inputs, and of what it lies between."""
        return {
            f"d {t}": self.size[t]
            for t, made in self.made.items()
            if 0 <= made <= i <= self.read[t] and (self.rows[made].weights or not self.rows[made].first)
        }

    def forward(self, rows: range, phase: str, held: dict[str, float], *, keeps: bool, until: int) -> list[Moment]:
        """Runs `rows`; a tensor lives to its last reader, but no longer than row `until`."""
        moments, saved = [], dict(held)
        live = (
            {t: self.size[t] for t in self.size if self.made[t] < rows.start <= self.read[t]}
            if phase == "forward"
            else {}
        )
        for i in rows:
            live[self.rows[i].name] = self.size[self.rows[i].name]
            saved |= self.keeps[i] if keeps else {}
            moments.append(Moment(self.rows[i].name, phase, sum({**saved, **live}.values())))
            live = {t: n for t, n in live.items() if min(self.read[t], until) > i}
        return moments

    def backward(self, rows: range, held: dict[str, float]) -> list[Moment]:
        return [
            Moment(
                self.rows[i].name,
                "backward",
                sum({**held, **self.saved(range(rows.start, i + 1)), **self.gradients(i)}.values()),
            )
            for i in reversed(rows)
        ]

    def _kept(self, row: Layer, batch: float, index_bits: float | None) -> dict[str, float]:
        """Bytes by tensor (or by row, for what only the backward pass has) that `row` keeps for its backward pass."""
        own = f"{row.name} (own)"
        inputs = {source: self.size[source] for source in row.sources}
        if row.first and row.kind not in (*CONTRACTIONS, "bn", "norm"):
            return {}  # nothing before it is trained: no gradient passes through
        if row.kind in CONTRACTIONS:
            return inputs
        if row.kind == "mul":  # by a constant: its gradient needs no tensor
            return inputs if len(row.sources) > 1 or row.weights else {}
        if row.kind in ("bn", "norm"):
            return {**inputs, own: 2 * 4.0 * (row.channels[1] if row.kind == "bn" else batch * row.out[0])}
        if row.kind == "maxpool":
            bits = ceil(log2(max(row.kernel[0] * row.kernel[1], 2))) if index_bits is None else index_bits
            return {**({} if index_bits is None else inputs), own: row.outputs * batch * bits / 8}
        if row.kind == "dropout":
            return {own: row.outputs * batch / 8}
        if row.kind == "avgpool":
            return {} if row.op in MEANS else inputs
        if row.kind == "loss":
            return {own: self.size[row.name]}
        if row.kind == "relu" or (row.kind == "activation" and row.op not in READS_INPUT):
            return {row.name: self.size[row.name]}
        return inputs if row.kind == "activation" else {}
