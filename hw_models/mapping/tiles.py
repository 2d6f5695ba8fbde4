"""Candidate tiles of three loops each: of pixels (images, rows, columns) and of the window (channels, rows, columns).

Tiles are whole steps of the array; none is smaller than what the array works on at once. All arrays are
[3 loops, row, tile], a row for each block that is to be cut.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hw_models.workload.shapes import Array

SMALL = 64  # up to so many pixels, or window positions and channels, every tile of them is tried
NEAR = (2 / 3, 1.5)  # a tile's surroundings: so many times its pieces, and one more or less


def _counts(extent: Array, factor: float) -> Array:
    """Numbers of pieces that loops are cut at first: powers of `factor` up to the longest."""
    return factor ** np.arange(np.ceil(np.log(max(float(extent.max()), 1.0)) / np.log(factor)) + 1)


@lru_cache(maxsize=4096)
def _every(extents: tuple[float, ...], units: tuple[float, ...]) -> Array:
    """All tiles of three loops, [3, tile]."""
    sizes = [
        [float(t) for t in range(int(n), 0, -1) if t >= min(u, n)] or [n] for n, u in zip(extents, units, strict=True)
    ]
    return np.array(np.meshgrid(*sizes, indexing="ij")).reshape(3, -1)


def _pieces(extent: Array, unit: Array, count: Array) -> Array:
    """Tile sizes that cut loops [row] into `count` [count] pieces, in whole steps of the array: [row, count]."""
    u = np.minimum(np.maximum(unit, 1), extent)[:, None]
    return np.minimum(u * np.ceil(np.ceil(extent[:, None] / u) / count), extent[:, None])


def pixel_tiles(outer: Array, unit: Array) -> Array:
    """Images, strips of rows, pieces of a row and squares, [3, row, tile]."""
    n, p, q, high, wide = (
        _pieces(outer[i], unit[i], _counts(outer[i], factor)) for i, factor in ((0, 4), (1, 2), (2, 4), (1, 2), (2, 2))
    )
    one, rows, cols = n[:, -1:], p[:, :1], q[:, :1]
    few = min(high.shape[1], wide.shape[1])
    families = ((n, rows, cols), (one, p, cols), (one, p[:, -1:], q), (one, high[:, 1:few], wide[:, 1:few]))
    return np.concatenate([np.stack(np.broadcast_arrays(*f)) for f in families], axis=2)


def window_tiles(outer: Array, unit: Array, uncut: NDArray[np.bool_]) -> Array:
    """Channels with the whole window, and parts of the window with the fewest channels."""
    c = _pieces(outer[0], unit[0], _counts(outer[0], 2))
    r, s = outer[1][:, None], outer[2][:, None]
    least = [np.minimum(np.maximum(u, 1), e)[:, None] for u, e in zip(unit, outer, strict=True)]
    least[1:] = np.where(uncut[:, None], r, least[1]), np.where(uncut[:, None], s, least[2])
    families = ((c, r, s), (least[0], least[1], s), (least[0], least[1], least[2]), (c[:, ::4], least[1], least[2]))
    return np.concatenate([np.stack(np.broadcast_arrays(*f)) for f in families], axis=2)


def around(tile: Array, outer: Array, unit: Array, loops: int = 3) -> Array:
    """Tiles [3, row] with a few pieces more or fewer along one of the first `loops` loops, [3, row, tile]."""
    found = [tile[:, :, None]]
    for i in range(loops):
        u = np.minimum(np.maximum(unit[i], 1), outer[i])
        blocks = np.ceil(outer[i] / u)
        count = np.ceil(outer[i] / tile[i])
        near = np.stack([np.ceil(count * f) for f in NEAR] + [count - 1, count + 1], axis=1)
        sizes = np.minimum(u[:, None] * np.ceil(blocks[:, None] / np.clip(near, 1, blocks[:, None])), outer[i][:, None])
        rest = [np.broadcast_to(t[:, None], sizes.shape) for t in tile]
        rest[i] = sizes
        found.append(np.stack(rest))
    return np.concatenate(found, axis=2)


def all_tiles(outer: Array, unit: Array, uncut: NDArray[np.bool_]) -> Array:
    """Every tile of small loops; a window that is `uncut` stays whole."""
    lists = [
        _every(
            tuple(t),
            tuple(max(k, int(np.ceil(n))) if i and w else k for i, (k, n) in enumerate(zip(u, t, strict=True))),
        )
        for t, u, w in zip(outer.T.tolist(), unit.T.tolist(), uncut.tolist(), strict=True)
    ]
    most = max(one.shape[1] for one in lists)
    return np.stack([np.pad(one, ((0, 0), (0, most - one.shape[1])), mode="edge") for one in lists], axis=1)
