"""Operations and traffic of layers that are not matrix products (BatchNorm, ReLU, pools, update), per element.

Counts per image for n_in / n_out elements of the layer's tensors (k^2 = window of a pool):

    kind       forward: mul, add, compare; reads, writes        backward: mul, add; reads, writes
    bn         2n, 3n, 0; 2n (statistics, then scaling), n      4n, 5n; 4n, n
    scale      n, n, 0; n, n  (BatchNorm in evaluation)         none
    relu       0, 0, n; n, n                                    n, 0; 2n, n
    maxpool    0, 0, (k^2-1) n_out; n_in, n_out + index bits    0, n_in; n_out, n_in
    select     0, 0, 0; n_in (elements picked), n_out           0, 0; n_in, the whole source (zeros where not picked)
    avgpool    n_out, n_in, 0; n_in, n_out                      n_out, 0; n_out, n_in
    add        0, n_out, 0; n_in, n_out                         0, n_out; n_in, n_out (the sum at the fork)
    loss       about 12 per class; 2n, n                        0, n; n, n

Source: the definitions of the operations, as an eager framework runs them (no fusion unless a profile says
so). Update, per parameter and step: SGD with momentum and decay 3 mul, 3 add; reads gradient, momentum and
weight, writes momentum and weight. Adam: first moment 1 mul, 2 add (linear interpolation); second 3 mul, 1 add; its
correction, root and epsilon 1 mul, 1 add, a root; the step 1 mul, 1 add, a quotient; decay 1 mul, 1 add (AdamW: 1 mul);
a root and a quotient are counted as two Newton steps, 4 mul and 4 add each; reads and writes the second moment too.
Quantizer: compare (range), scale, round, clamp = 4 operations an element; one that
tries several scales scales, rounds and clamps for each, and squares and sums each error.
"""

from __future__ import annotations

from math import log2
from typing import Any, NamedTuple

import numpy as np

from hw_models.workload.layer import KINDS
from hw_models.workload.shapes import Array, Shapes


class Work(NamedTuple):
    """Per element coefficients; `_in` multiplies input elements, `_out` output elements, `_k` (k^2-1) n_out, `_source`
    the elements of the tensor that the input elements were picked from."""

    mul_in: float = 0
    mul_out: float = 0
    add_in: float = 0
    add_out: float = 0
    cmp_out: float = 0
    cmp_k: float = 0
    read_in: float = 0
    read_out: float = 0
    write_in: float = 0
    write_out: float = 0
    write_source: float = 0


FORWARD = {
    "bn": Work(mul_out=2, add_out=3, read_in=2, write_out=1),
    "scale": Work(mul_out=1, add_out=1, read_in=1, write_out=1),
    "relu": Work(cmp_out=1, read_in=1, write_out=1),
    "activation": Work(mul_out=4, add_out=4, read_in=1, write_out=1),  # a short polynomial
    "maxpool": Work(cmp_k=1, read_in=1, write_out=1),
    "avgpool": Work(mul_out=1, add_in=1, read_in=1, write_out=1),
    "add": Work(add_out=1, read_in=1, write_out=1),
    "mul": Work(mul_out=1, read_in=1, write_out=1),
    "concat": Work(read_in=1, write_out=1),
    "select": Work(read_in=1, write_out=1),
    "dropout": Work(mul_out=1, cmp_out=1, read_in=1, write_out=1),
    "loss": Work(mul_out=4, add_out=8, read_in=2, write_out=1),
    "other": Work(read_in=1, write_out=1),
}
BACKWARD = {
    "bn": Work(mul_out=4, add_out=5, read_in=2, read_out=2, write_in=1),
    "relu": Work(mul_out=1, read_out=2, write_in=1),
    "activation": Work(mul_out=5, add_out=4, read_out=2, write_in=1),
    "maxpool": Work(add_in=1, read_out=1, write_in=1),
    "avgpool": Work(mul_out=1, read_out=1, write_in=1),
    "add": Work(add_out=1, read_in=1, write_out=1),
    "mul": Work(mul_out=2, read_in=1, read_out=1, write_in=1),
    "concat": Work(read_out=1, write_in=1),
    "select": Work(read_in=1, write_source=1),
    "dropout": Work(mul_out=1, read_out=1, write_in=1),
    "loss": Work(add_out=1, read_out=1, write_in=1),
    "other": Work(read_out=1, write_in=1),
}
FORWARD["norm"], BACKWARD["norm"] = FORWARD["bn"], BACKWARD["bn"]
_TABLES = np.array([[tuple(table.get(kind, Work())) for kind in KINDS] for table in (FORWARD, BACKWARD)])

_TRAINED = [KINDS.index("bn"), KINDS.index("norm")]  # have parameters: a backward pass in any place
UPDATE = {"sgd": (3, 3), "adam": (15, 14), "adamw": (15, 13)}  # multiplications and additions; weight decay included
AVERAGE_MULTIPLY, AVERAGE_ADD = 1, 2  # a running mean of a parameter: mean += (parameter - mean) / n
QUANTIZE = {"compare": 1, "multiply": 1, "integer": 2}  # range, scale, round and clamp
TRY = {"multiply": 2, "integer": 2, "add": 2}  # a scale that is tried: scale, round, clamp, the error's square and sum


class Moves(NamedTuple):
    """Operations and elements of the pointwise rows, each [2 (forward, backward), ..., layers], one image."""

    multiply: Array
    add: Array
    compare: Array
    read: Array
    written: Array
    index_bits: Array  # of max pools: written in the forward pass, read in the backward pass

    @property
    def elements(self) -> Array:
        """Elements moved, either way."""
        return self.read + self.written


def pointwise(table: Shapes, fused: tuple[str, ...] = ()) -> Moves:
    """Counts per image; kinds in `fused` move nothing (their tensors stay in the array)."""
    c = _TABLES[:, table.kind]  # [2, layers, coefficient]
    needed = np.stack([np.ones_like(table.first), np.where(np.isin(table.kind, _TRAINED), 1, 1 - table.first)])
    lead = (slice(None),) + (None,) * (table.columns.ndim - 2)
    w: Any = Work._make(c[..., i][lead] for i in range(c.shape[-1]))  # arrays in the place of numbers
    n_in, n_out = table.inputs, table.outputs
    window = n_out * np.maximum(table.R * table.S - 1, 0)
    here = needed
    if fused:
        kinds = [*fused, *(["scale"] if "bn" in fused else [])]
        here = needed * ~np.isin(table.kind, [KINDS.index(k) for k in kinds])
    pooled = n_out * np.ceil(np.log2(np.maximum(table.R * table.S, 1))) * (table.kind == KINDS.index("maxpool"))
    return Moves(
        (w.mul_in * n_in + w.mul_out * n_out) * needed,
        (w.add_in * n_in + w.add_out * n_out) * needed,
        (w.cmp_out * n_out + w.cmp_k * window) * needed,
        (w.read_in * n_in + w.read_out * n_out) * here,
        (w.write_in * n_in + w.write_out * n_out + w.write_source * table.C * table.H * table.W) * here,
        pooled * here,
    )


def mask_draw(channels: int) -> tuple[float, float]:
    """(compares, bits moved) of one mask draw over `channels` gammas: magnitudes, a sort, five distances."""
    n = float(channels)
    return 2 * n + 3 * n * log2(max(n, 2)) + 5 * n / 32, 32 * n + 5 * n
