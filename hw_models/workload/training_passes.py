"""The three contractions of a training step, as arrays over the layers.

Every convolution or matrix product is, in each pass, a contraction  Z[g1, g2] = sum_red X[g1, red] Y[red, g2]
repeated `groups` times (sizes per group, N = batch):

    pass             X                Y       Z    g1           g2     red
    forward          activation I     W       O    N P Q        K/G    (C/G) R S
    input_gradient   error dO         W       dI   N H W        C/G    MACs / (g1 g2 G)
    weight_gradient  activation I     dO      dW   (C/G) R S    K/G    N P Q

All three have the same MACs, N K P Q (C/G) R S, if multiplications with inserted zeros are skipped. The
window reuse of X (each element stands in several places of the unfolded matrix) is g1 red G / |X|.

Each index is made of loops, at whose boundaries tiles are cut: pixels (images, rows, columns), window (channels that
are summed over, or that a weight gradient has, with the rows and columns of the window) and filters (g2). `LOOPS` names
them as in a layer: N images, P x Q pixels (of the input in an input gradient), C input and K output channels, R x S
window. In an input gradient the taps that meet an error are an average, one loop R; its S is 1.

Arrays end in the layer axis; leading axes (candidate networks) broadcast.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hw_models.workload.layer import KINDS
from hw_models.workload.shapes import COLUMNS, Array, Shapes

PIXELS, WINDOW, FILTERS = slice(0, 3), slice(3, 6), 6  # of the loops of a contraction
# place of each loop among those of the contraction, by pass
LOOPS = {
    "forward": {name: place for place, name in enumerate("NPQCRSK")},
    "input_gradient": {name: place for place, name in enumerate("NPQKRSC")},
    "weight_gradient": {name: place for place, name in enumerate("NPQCRSK")},
}
# short names of a profile: which loops each unrolls as one index, by pass
MERGED = {
    "forward": {"K": "K", "C": "CRS", "pixels": "NPQ"},
    "input_gradient": {"K": "KRS", "C": "C", "pixels": "NPQ"},
    "weight_gradient": {"K": "K", "C": "CRS", "pixels": "NPQ"},
}
# the index that pixels, window and filters belong to, by pass; and the one that an operand does not have
INDEX = {
    "forward": ("g1", "red", "g2"),
    "input_gradient": ("g1", "red", "g2"),
    "weight_gradient": ("red", "g1", "g2"),
}
SHARED_INDEX = {"streaming": "g2", "held": "g1", "sums": "red"}


@dataclass(frozen=True)
class Halo:
    """Which X elements a tile needs: n pixels of a (rows, cols) grid touch a patch of X and its margin.

    A patch of r rows needs min(scale r + margin, limit) rows of X, its columns likewise; a patch is a strip of
    whole rows or a square, whichever touches less. `taps`: positions of the window per channel of X.
    """

    rows: Array
    cols: Array
    scale: tuple[Array, Array]
    margin: tuple[Array, Array]
    limit: tuple[Array, Array]
    taps: Array

    def elements(self, pixels: Array, other: Array) -> Array:
        """X elements under `pixels` grid points and `other` values of the index that holds channels x taps."""
        high, wide = self._patch(pixels)
        return self._planes(pixels, other) * self._span(0, high) * self._span(1, wide)

    def walked(self, pixels: Array, within: Array, other: Array) -> Array:
        """X elements fetched while a patch of `pixels` walks over `within`, channels fixed.

        The margin along the walk (down or across, whichever is less) is still there from the step before; the
        margin beside it is fetched again on the next lane.
        """
        whole_high, whole_wide = self._patch(within)
        high = np.minimum(self._patch(pixels)[0], whole_high)
        wide = np.clip(pixels / high, 1.0, whole_wide)
        down = self._span(0, whole_high) * self._span(1, wide) * whole_wide / wide
        across = self._span(0, high) * self._span(1, whole_wide) * whole_high / high
        return self._planes(within, other) * np.minimum(down, across)

    def _planes(self, pixels: Array, other: Array) -> Array:
        return np.maximum(pixels / (self.rows * self.cols), 1.0) * np.maximum(other / self.taps, 1.0)

    def _patch(self, pixels: Array) -> tuple[Array, Array]:
        strip = np.clip(pixels / self.cols, 1.0, self.rows)
        square = np.clip(np.sqrt(pixels), strip, self.rows)
        wides = [np.clip(pixels / high, 1.0, self.cols) for high in (strip, square)]
        squarer = self._span(0, square) * self._span(1, wides[1]) < self._span(0, strip) * self._span(1, wides[0])
        return np.where(squarer, square, strip), np.where(squarer, wides[1], wides[0])

    def _span(self, axis: int, length: Array) -> Array:
        return np.minimum(self.scale[axis] * length + self.margin[axis], self.limit[axis])


@dataclass(frozen=True)
class Passes:
    """The contractions, arrays [3, ..., contraction]; elements and MACs for the whole batch."""

    g1: Array
    g2: Array
    red: Array
    groups: Array
    macs: Array
    x: Array
    y: Array
    z: Array
    window: Array  # reuse of X through overlapping windows, >= 1
    halo: Halo
    index: NDArray[np.int64]  # which layers these are
    loops: Array  # [7, 3, ..., contraction] iterations of each loop, per group
    strides: (
        Array  # [2, 3, ..., contraction] rows and columns that a step of a pixel is on X; 0 where a window is whole
    )


def passes(table: Shapes, batch: float, zero_skip: bool = True) -> Passes:
    """The three contractions of each conv, linear and matmul row at this batch size.

    In a "matmul" row both operands are activations: Y is the second one, its "weight gradient" an error as well.
    The input gradient of a `first` layer has zero MACs and elements. Without `zero_skip` an input gradient
    of a strided convolution really multiplies the inserted zeros: stride^2 times the MACs.
    """
    index = np.flatnonzero(table.contraction)
    c = dict(zip(COLUMNS, table.columns[..., index], strict=True))
    n = float(batch)
    # a product of two activations has matrices of its own in every image: more groups, not more pixels
    matrices = np.where(c["kind"] == KINDS.index("matmul"), n, 1.0)
    group = c["groups"] * matrices
    window = c["R"] * c["S"]
    pixels_out, pixels_in = (n / matrices) * c["P"] * c["Q"], (n / matrices) * c["H"] * c["W"]
    per_c, per_k = c["C"] / c["groups"], c["K"] / c["groups"]
    macs = n * c["macs"]
    # rows of the input that no window touches are never read (1x1 kernels with stride 2)
    touched = n * c["C"] * np.minimum(c["H"], c["P"] * c["R"]) * np.minimum(c["W"], c["Q"] * c["S"])
    weights = c["K"] * per_c * window * matrices
    errors = n * c["K"] * c["P"] * c["Q"]
    gradients = n * c["C"] * c["H"] * c["W"]
    needed = 1.0 - c["first"]
    effort = needed if zero_skip else needed * c["sr"] * c["ss"]

    g1 = np.stack([pixels_out, pixels_in, per_c * window])
    g2 = np.stack([per_k, per_c, per_k])
    all_macs = np.stack([macs, macs * effort, macs])
    red = all_macs / np.maximum(g1 * g2 * group, 1.0)
    red = np.where(all_macs > 0, red, 1.0)
    x = np.stack([touched, errors * needed, touched])
    y = np.stack([weights, weights * needed, errors])
    z = np.stack([errors, gradients * needed, weights])
    reuse = np.maximum(g1 * red * group / np.maximum(x, 1.0), 1.0)
    images, one = np.broadcast_to(n / matrices, per_c.shape), np.ones_like(per_c)
    outside = [images, c["P"], c["Q"], per_c, c["R"], c["S"], per_k]
    inside = [images, c["H"], c["W"], per_k, red[1] / np.maximum(per_k, 1.0), one, per_c]
    loops = np.stack([np.stack([a, b, a]) for a, b in zip(outside, inside, strict=True)])
    strides = np.stack([np.stack([s, 0 * one, s]) for s in (c["sr"], c["ss"])])
    group = np.broadcast_to(group, g1.shape)
    return Passes(g1, g2, red, group, all_macs, x, y, z, reuse, _halo(c, effort), index, loops, strides)


def loops_of(which: str, axis: str | tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """What a dimension of an array unrolls in a pass: places of loops, those of one group as a single index.

    A short name ("K", "C", "pixels") is one index, several loops flattened; a tuple of loops unrolls each by itself.
    """
    places = LOOPS[which]
    if isinstance(axis, str):
        return (tuple(places[loop] for loop in MERGED[which][axis]),)
    return tuple((places[loop],) for loop in axis)


def index_of(which: str, place: int) -> str:
    """The index (g1, g2, red) that a loop of a contraction belongs to."""
    return INDEX[which][0 if place < 3 else 1 if place < 6 else 2]


def _halo(c: dict[str, Array], effort: Array) -> Halo:
    def three(forward: Array, backward: Array) -> Array:
        return np.stack([forward, backward, forward])

    (rs, ss), (r, s) = (c["sr"], c["ss"]), (c["R"], c["S"])
    window = r * s
    # taps that meet an error, on average over the input: fewer with strides (unless zeros are multiplied) and edges
    met = c["macs"] * c["groups"] / (c["H"] * c["W"] * c["C"] * c["K"]) * np.maximum(effort, 1.0)
    return Halo(
        three(c["P"], c["H"]),
        three(c["Q"], c["W"]),
        (three(np.minimum(rs, r), 1 / rs), three(np.minimum(ss, s), 1 / ss)),
        (three(np.maximum(r - rs, 0), (r - 1) / rs), three(np.maximum(s - ss, 0), (s - 1) / ss)),
        (three(np.minimum(c["H"], c["P"] * r), c["P"]), three(np.minimum(c["W"], c["Q"] * s), c["Q"])),
        three(window, met),
    )
