"""Deduplicates mapping problems: the distinct contractions of a network, and their results copied to all rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hw_models.workload.shapes import Array
from hw_models.workload.training_passes import Passes

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def distinct(columns: Sequence[Array]) -> tuple[Array, Ints]:
    """Each different row of some columns once, [column, distinct], and which of them each row is."""
    table, inverse = np.unique(np.stack(columns), axis=1, return_inverse=True)
    return table, inverse.reshape(-1)


def spread(values: Array, p: Passes, inverse: Ints) -> Array:
    """Values of the distinct contractions -> an array like those of `p`, 0 for idle rows."""
    out = np.zeros(p.macs.shape)
    out[p.macs > 0] = values[inverse]
    return out
