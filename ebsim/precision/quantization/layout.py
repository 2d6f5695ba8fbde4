"""Any dense tensor as a matrix in memory order, one row per scale group or sample, and each element's logical index.

Quantizing is elementwise, so the kernel may walk memory in any order; only the groups and the index that feeds the
stochastic rounding must follow the logical (NCHW) order, so that channels_last changes nothing. That index is a pair:
that of the row's first element, and the offset in the row. Only their hashes are kept (see `counter_rng`). Where dim 0
is samples, their places in the global batch (`Samples`) are part of the index, so that the same sample is rounded alike
however a batch is cut into micro-batches or spread over processes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ebsim.precision.quantization.counter_rng import COLUMNS, mixed


class Samples(NamedTuple):
    """Places in the global batch of the samples along dim 0: first, first + stride, ...; each `each` rows of it."""

    first: int = 0
    stride: int = 1
    each: int = 1


ALL = Samples()


class Matrix(NamedTuple):
    """x as [groups, elements]; `back` gives a result of that shape the shape and strides of x.

    hashes() -> int32 [groups + elements]: of the index of every row's first element, then of the offsets in a row.
    """

    x: Tensor
    hashes: Callable[[], Tensor]
    back: Callable[[Tensor], Tensor]


def _places(n: int, samples: Samples, device: torch.device) -> Tensor:
    """Where the rows along dim 0 stand in the global batch."""
    index = torch.arange(n, dtype=torch.int32, device=device)
    sample, row = index // samples.each, index % samples.each
    return (sample * samples.stride + samples.first) * samples.each + row


@functools.lru_cache(maxsize=1024)
def _hashes(groups: int, size: int, samples: Samples, pixels: int, device: torch.device) -> Tensor:
    """Of `groups` rows of `size` elements; `pixels` > 0: memory holds a row's channels last, `pixels` of each."""
    rows = _places(groups, samples, device) * size
    cols = torch.arange(size, dtype=torch.int32, device=device)
    if pixels:
        cols = cols.view(-1, pixels).t().reshape(-1)
    return mixed(torch.cat([rows, cols + COLUMNS]))


@functools.lru_cache(maxsize=256)
def _block_hashes(shape: tuple[int, ...], axis: int, block: int, samples: Samples, device: torch.device) -> Tensor:
    """Of the first element of every block along `axis`, and of the offsets in a block."""
    inner = torch.Size(shape[1:]).numel()
    first = _places(shape[0], samples, device) * inner
    index = first[:, None] + torch.arange(inner, dtype=torch.int32, device=device)
    rows = index.view(shape).movedim(axis, -1)[..., ::block].reshape(-1)
    apart = torch.Size(shape[axis + 1 :]).numel() * (samples.stride if axis == 0 else 1)
    cols = torch.arange(block, dtype=torch.int32, device=device) * apart
    return mixed(torch.cat([rows, cols + COLUMNS]))


def as_matrix(x: Tensor, block: int | str, axis: int = 1, samples: Samples = ALL) -> Matrix:
    """View (or, for blocks along an axis and sparse strides, copy) `x` for the quantizer."""
    if isinstance(block, int) and block > 0 and x.dim() > 0:
        return _blocks(x, block, min(axis, x.dim() - 1), samples)
    if isinstance(block, str) and "x" in block and x.dim() > 1:
        high, wide = map(int, block.split("x"))
        return _tiles(x, high, wide, samples)
    if x.dim() <= 1:
        groups, size = (x.numel(), 1) if block == "row" else (1, x.numel())
        hashes = functools.partial(_hashes, groups, size, ALL, 0, x.device)
        return Matrix(x.reshape(groups, size), hashes, lambda y: _like(y.view(x.shape), x))
    groups, size = x.shape[0], x.shape[1:].numel()
    if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        n, c, h, w = x.shape
        return Matrix(
            x.permute(0, 2, 3, 1).view(groups, size),
            functools.partial(_hashes, groups, size, samples, h * w, x.device),
            lambda y: y.view(n, h, w, c).permute(0, 3, 1, 2),
        )
    hashes = functools.partial(_hashes, groups, size, samples, 0, x.device)
    return Matrix(x.contiguous().view(groups, size), hashes, lambda y: _like(y.view(x.shape), x))


def _blocks(x: Tensor, block: int, axis: int, samples: Samples) -> Matrix:
    moved = x.movedim(axis, -1)
    length = moved.shape[-1]
    padded = F.pad(moved, (0, -length % block))  # a short last block: zeros do not change its absmax
    return Matrix(
        padded.reshape(-1, block),
        functools.partial(_block_hashes, tuple(x.shape), axis, block, samples, x.device),
        lambda y: _like(y.view(padded.shape)[..., :length].movedim(-1, axis), x),
    )


def _tiles(x: Tensor, high: int, wide: int, samples: Samples) -> Matrix:
    """Tiles of dim 0 and dim 1, of every position of the other dimensions."""
    moved = x.movedim((0, 1), (-2, -1))
    n, m = moved.shape[-2:]
    padded = F.pad(moved, (0, -m % wide, 0, -n % high))
    rows, cols = padded.shape[-2] // high, padded.shape[-1] // wide
    lead = padded.shape[:-2]
    tiled = padded.reshape(*lead, rows, high, cols, wide).transpose(-3, -2)

    def back(y: Tensor) -> Tensor:
        whole = y.view(tiled.shape).transpose(-3, -2).reshape(padded.shape)
        return _like(whole[..., :n, :m].movedim((-2, -1), (0, 1)), x)

    hashes = functools.partial(_tile_hashes, tuple(x.shape), high, wide, samples, x.device)
    return Matrix(tiled.reshape(-1, high * wide), hashes, back)


@functools.lru_cache(maxsize=256)
def _tile_hashes(shape: tuple[int, ...], high: int, wide: int, samples: Samples, device: torch.device) -> Tensor:
    """Of the first element of every tile, and of the offsets in a tile."""
    inner = torch.Size(shape[1:]).numel()
    first = _places(shape[0], samples, device) * inner
    index = (first[:, None] + torch.arange(inner, dtype=torch.int32, device=device)).view(shape)
    rows = index.movedim((0, 1), (-2, -1))[..., ::high, ::wide].reshape(-1)
    down = torch.arange(high, dtype=torch.int32, device=device) * inner * samples.stride
    right = torch.arange(wide, dtype=torch.int32, device=device) * torch.Size(shape[2:]).numel()
    return mixed(torch.cat([rows, (down[:, None] + right).reshape(-1) + COLUMNS]))


def _like(y: Tensor, x: Tensor) -> Tensor:
    return y if y.stride() == x.stride() else torch.empty_like(x).copy_(y)
