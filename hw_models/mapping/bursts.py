"""DRAM moves whole bursts: a tile's rows that do not lie one after the other are rounded up to them.

Tensors lie in DRAM as images, channels, rows, columns (weights: filters, channels, rows, columns of the window), and a
tile is fetched run by run, a run being what lies together: a piece of a row, whole rows, whole planes, as far as the
tile takes all of each. Runs are taken to start at a burst; smaller last tiles are rounded like full ones.
"""

from __future__ import annotations

import itertools

import numpy as np

from hw_models.mapping.problems import Problems
from hw_models.mapping.traffic import Traffic
from hw_models.workload.shapes import Array


def run_elements(q: Problems, tile: Array) -> tuple[Array, Array, Array]:
    """Elements of X, Y and Z that lie together in tiles [7, problem] of N P Q, C R S (summed or window) and K."""
    n, p, cols, c, r, s, k = tile
    whole = q.loops
    one_group = q.groups == 1
    spans = []
    for axis in (0, 1):
        uncut = tile[4 + axis] >= whole[4 + axis]
        stride = q.strides[axis]
        scale = np.where(uncut, q.scale[axis], np.minimum(tile[4 + axis], stride))
        margin = np.where(uncut, q.margin[axis], np.maximum(tile[4 + axis] - stride, 0.0))
        spans.append(np.minimum(scale * tile[1 + axis] + margin, q.limit[axis]))
    x = _together(
        (spans[1], q.limit[1]), (spans[0], q.limit[0]), (c, np.where(one_group, whole[3], np.inf)), (n, whole[0])
    )
    # the tensor of pixels with filters as channels (outputs, errors), and that of weights
    picture = _together((cols, whole[2]), (p, whole[1]), (k, np.where(one_group, whole[6], np.inf)), (n, whole[0]))
    backward = q.which == 1  # there the filters of the contraction are the input channels of the weights
    inner, outer = np.where(backward, k, c), np.where(backward, c, k)
    inner_whole = np.where(backward, whole[6], whole[3])
    taps, taps_whole = s * np.where(backward, q.y_scale, 1.0), whole[5] * np.where(backward, q.y_scale, 1.0)
    weights = _together((taps, taps_whole), (r, whole[4]), (inner, inner_whole), (outer, np.full_like(c, np.inf)))
    y, z = np.where(q.window_first, picture, weights), np.where(q.window_first, weights, picture)
    return x, y, z


def _together(*axes: tuple[Array, Array]) -> Array:
    """Elements in a row: (taken, whole) of each axis, the one that runs fastest first."""
    run, on = axes[0][0], np.ones_like(axes[0][0], dtype=bool)
    for (taken, whole), (following, _) in itertools.pairwise(axes):
        on = on & (taken >= whole)
        run = np.where(on, run * following, run)
    return np.asarray(run)


def whole_bursts(moved: Traffic, runs: tuple[Array, Array, Array, Array], burst: float) -> Traffic:
    """Traffic in whole bursts of `burst` bits; `runs`: bits of the runs of X, Y, finished Z and sums."""

    def more(run: Array) -> Array:
        some = np.maximum(run, 1e-9)
        return np.where(run > 0, np.ceil(some / burst - 1e-9) * burst / some, 1.0)

    x, y, z, spill = (more(run) for run in runs)
    return Traffic(moved.x * x, moved.y * y, moved.z * z, moved.spill * spill)
