"""Any dense tensor as a matrix in memory order, one row per scale group or sample, and each element's logical index.

Quantizing is elementwise, so the kernel may walk memory in any order; only the groups and the index that feeds the
stochastic rounding must follow the logical (NCHW) order, so that channels_last changes nothing. That index is a pair:
that of the row's first element, and the offset in the row. Both are kept as their hashes (`rows`, `cols`; see `noise`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ebsim.precision.quantization.counter_rng import mixed


class Matrix(NamedTuple):
    """x as [groups, elements]; `back` gives a result of that shape the shape and strides of x."""

    x: Tensor
    rows: Tensor
    cols: Tensor
    back: Callable[[Tensor], Tensor]


@functools.lru_cache(maxsize=1024)
def _hashes(n: int, step: int, device: torch.device) -> Tensor:
    """Hashes of 0, step, 2 step, ..."""
    return mixed(torch.arange(n, dtype=torch.int32, device=device) * step)


@functools.lru_cache(maxsize=256)
def _pixels_first(channels: int, pixels: int, device: torch.device) -> Tensor:
    """Hashes of the offsets within a sample, in channels_last memory order."""
    return _hashes(channels * pixels, 1, device).view(channels, pixels).t().reshape(-1)


@functools.lru_cache(maxsize=256)
def _block_rows(shape: tuple[int, ...], axis: int, block: int, device: torch.device) -> Tensor:
    """Hashes of the logical index of the first element of every block along `axis`."""
    index = torch.arange(torch.Size(shape).numel(), dtype=torch.int32, device=device).view(shape)
    return mixed(index.movedim(axis, -1)[..., ::block].reshape(-1))


def as_matrix(x: Tensor, block: int | str, axis: int = 1) -> Matrix:
    """View (or, for blocks along an axis and sparse strides, copy) `x` for the quantizer."""
    if isinstance(block, int) and block > 0 and x.dim() > 0:
        return _blocks(x, block, min(axis, x.dim() - 1))
    if x.dim() <= 1:
        n = x.numel()
        flat = x.reshape(n, 1) if block == "row" else x.reshape(1, n)
        starts, offsets = (n, 1) if block == "row" else (1, n)
        rows, cols = _hashes(starts, 1, x.device), _hashes(offsets, 1, x.device)
        return Matrix(flat, rows, cols, lambda y: _like(y.view(x.shape), x))
    groups, size = x.shape[0], x.shape[1:].numel()
    rows = _hashes(groups, size, x.device)
    if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        n, c, h, w = x.shape
        cols = _pixels_first(c, h * w, x.device)
        return Matrix(
            x.permute(0, 2, 3, 1).view(groups, size), rows, cols,
            lambda y: y.view(n, h, w, c).permute(0, 3, 1, 2),
        )  # fmt: skip
    cols = _hashes(size, 1, x.device)
    return Matrix(x.contiguous().view(groups, size), rows, cols, lambda y: _like(y.view(x.shape), x))


def _blocks(x: Tensor, block: int, axis: int) -> Matrix:
    moved = x.movedim(axis, -1)
    length = moved.shape[-1]
    padded = F.pad(moved, (0, -length % block))  # a short last block: zeros do not change its absmax
    rows = _block_rows(tuple(x.shape), axis, block, x.device)
    cols = _hashes(block, x.shape[axis + 1 :].numel(), x.device)
    return Matrix(
        padded.reshape(-1, block), rows, cols,
        lambda y: _like(y.view(padded.shape)[..., :length].movedim(-1, axis), x),
    )  # fmt: skip


def _like(y: Tensor, x: Tensor) -> Tensor:
    return y if y.stride() == x.stride() else torch.empty_like(x).copy_(y)
