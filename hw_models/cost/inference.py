"""Cost of forward passes without a gradient: evaluation on a test set, and passes that gather BatchNorm statistics.

In evaluation a BatchNorm uses its running statistics, constants by then: y = a x + b, one product, one sum and one pass
over the tensor instead of two. (A compiler may fold it into the convolution before it; here it stays a row of its own,
of kind "scale".) Dropout does nothing. The loss is computed, its gradient is not. Activations are quantized as in
training; the quantized weights are those that the last update left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hw_models.accelerator.description import Accelerator
from hw_models.cost.fusion import fuse as fused
from hw_models.cost.step_cost import Cost
from hw_models.cost.training_step import FUSED, reuse_model, rows_of, training_cost
from hw_models.precision.formats import Bits, parse_precision
from hw_models.workload.layer import KINDS, Layer
from hw_models.workload.shapes import Shapes, shapes


def forward_cost(
    layers: Sequence[Layer] | Shapes,
    chip: Accelerator | str,
    bits: Bits = None,
    batch: float = 256,
    model: str = "closed",
    *,
    hypothetical: bool = False,
    statistics: bool = False,
    fuse: bool = False,
) -> Cost:
    """The cost of one forward pass over `batch` images, in evaluation mode or (`statistics`) as in training.

    The three other passes of the `Cost` are zero. `fuse` and errors as `training_cost`.
    """
    model, fuse = reuse_model(model, fuse)
    table = shapes(layers)
    table = table if statistics else evaluating(table)
    step = training_cost(table, chip, bits, batch, model, hypothetical=hypothetical)
    first = np.arange(len(step.row_macs)).reshape(-1, *[1] * (step.row_macs.ndim - 1)) == 0
    cost = replace(
        step,
        parts=tuple(replace(p, counts=p.counts[:1]) for p in step.parts),
        dram_bits=step.dram_bits * first,
        row_limits=step.row_limits * first,
        row_seconds=step.row_seconds * first,
        row_macs=step.row_macs * first,
    )
    if table.columns.ndim == 2:
        cost.check()
    if not fuse:
        return cost
    rows = rows_of(layers)
    cost = fused(cost, rows if statistics else evaluated(rows), parse_precision(bits), backward=False)[0]
    return replace(cost, model=model + FUSED)


def evaluated(rows: Sequence[Layer]) -> list[Layer]:
    """The rows of `evaluating`: what a dropout would hand on is what it reads."""
    same = {row.name: row.sources[0] for row in rows if row.kind == "dropout" and row.sources}
    out = []
    for row in rows:
        sources = row.sources
        while any(source in same for source in sources):
            sources = tuple(same.get(source, source) for source in sources)
        if row.kind != "dropout":
            out.append(replace(row, kind="scale" if row.kind == "bn" else row.kind, sources=sources))
    return out


def evaluating(table: Shapes) -> Shapes:
    """The table of the network in evaluation mode: each BatchNorm a scale and shift, no dropout."""
    active = table.kind != KINDS.index("dropout")
    kind = np.where(table.kind == KINDS.index("bn"), KINDS.index("scale"), table.kind)[active]
    names = tuple(name for name, on in zip(table.names, active, strict=True) if on)
    return Shapes(names, kind, table.columns[..., active])
