"""How wide the tensors between the rows of a network are, and what the update of each row moves."""

from __future__ import annotations

import numpy as np

from hw_models.precision.formats import FORMATS, UNROUNDED, LayerFormats, PointwiseFormats, Precision
from hw_models.workload.layer import KINDS
from hw_models.workload.shapes import Shapes


class TensorBits:
    """Bits per element of each row's output and input gradient, [rows], and bits per weight that its update moves.

    A row reads the output of the row before it (`input`), and gets the input gradient of the row after it (`error`).
    """

    def __init__(self, table: Shapes, precision: Precision) -> None:
        self.rows: list[LayerFormats | PointwiseFormats]
        if precision.uniform and not precision.pointwise.keys() - {"*"}:
            other = precision.pointwise.get("*", UNROUNDED)
            self.rows = [precision.default if product else other for product in table.contraction.tolist()]
        else:
            self.rows = [
                precision.rule(name, KINDS[kind]) if product else precision.pointwise_row(name, KINDS[kind])
                for name, kind, product in zip(
                    table.names, table.kind.tolist(), table.contraction.tolist(), strict=True
                )
            ]
        distinct = {id(row): _bits(row) for row in self.rows}
        columns = np.array([distinct[id(row)] for row in self.rows]).reshape(-1, 4).T
        self.forward, self.backward, self.update_reads, self.update_writes = columns
        first = [precision.default.output.bits if "*" in precision.pointwise else FORMATS["fp32"].bits]
        self.input = np.array([*first, *self.forward[:-1]])
        self.error = np.array([*self.backward[1:], FORMATS["fp32"].bits])


def _bits(row: LayerFormats | PointwiseFormats) -> tuple[float, float, float, float]:
    """Bits per element of a row's output and input gradient, and bits per weight that its update reads and writes."""
    if isinstance(row, PointwiseFormats):
        return row.forward.bits, row.backward.bits, 0.0, 0.0
    gradient, momentum, stored = (fmt.bits for fmt in row.update)
    kept = momentum + stored + (row.second_moment.bits if row.second_moment else 0.0)
    return row.output.bits, row.activation_gradient.bits, gradient + kept, kept
