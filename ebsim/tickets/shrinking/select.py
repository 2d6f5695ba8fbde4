"""`Select`, the module that picks channels: y[:, j] = x[:, index[j]], or zero where index[j] is -1.

No channel is picked twice, so the gradient is a pick too, by the inverse index: forward and backward are both plain
gathers, bit-exact, without the atomic additions of index_select's own backward. A channels_last tensor is read as the
[N*H*W, C] matrix that it is in memory; picking along dimension 1 of the 4-D view would be several times slower and
return another layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn


class Select(nn.Module):
    """[N, width, ...] -> [N, len(index), ...] along `dim`; index -1 gives zeros. No weights, nothing saved."""

    index: Tensor
    inverse: Tensor

    def __init__(self, index: Sequence[int], width: int, dim: int = 1) -> None:
        super().__init__()
        picked = torch.tensor(index, device="cpu")
        inverse = torch.full((width,), -1, device="cpu")
        inverse[picked[picked >= 0]] = torch.arange(len(index), device="cpu")[picked >= 0]
        self.width, self.dim = width, dim
        self.fills, self.drops = bool((picked < 0).any()), bool((inverse < 0).any())
        self.register_buffer("index", _zero_last(picked, width), persistent=False)
        self.register_buffer("inverse", _zero_last(inverse, len(index)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return pick(x, self.index, self.fills, self.inverse, self.drops, self.dim)

    def extra_repr(self) -> str:
        return f"{self.width} -> {len(self.index)}"


@fx.wrap
def pick(x: Tensor, index: Tensor, fills: bool, inverse: Tensor, drops: bool, dim: int = 1) -> Tensor:
    """Entries `index` of `x` along `dim`; the last index is an entry of zeros where `fills`. One step in fx graphs."""
    if x.requires_grad and torch.is_grad_enabled() and not torch.jit.is_tracing():
        picked: Tensor = _Pick.apply(x, index, fills, inverse, drops, dim)
        return picked
    return _pick(x, index, fills, dim)


class _Pick(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, fills: bool, inverse: Tensor, drops: bool, dim: int) -> Tensor:
        ctx.save_for_backward(index, inverse)
        ctx.fills, ctx.drops, ctx.dim = fills, drops, dim
        return _pick(x, index, fills, dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        index, inverse = ctx.saved_tensors
        back = _Pick.apply(gradient, inverse, ctx.drops, index, ctx.fills, ctx.dim)
        return back, None, None, None, None, None


def _zero_last(index: Tensor, width: int) -> Tensor:
    """Point every -1 at the zero channel that `_pick` appends."""
    return torch.where(index < 0, width, index)


def _pick(x: Tensor, index: Tensor, zero: bool, dim: int = 1) -> Tensor:
    """Entries `index` of x along `dim`; with `zero`, index C is one of zeros."""
    if dim != 1 or x.ndim < 2:
        if zero:
            x = F.pad(x, [0, 0] * (x.ndim - 1 - dim) + [0, 1])
        return x.index_select(dim, index)
    n, c = x.shape[:2]
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        rows = _pick(x.permute(0, 2, 3, 1).reshape(-1, c), index, zero)
        return rows.view(n, *x.shape[2:], len(index)).permute(0, 3, 1, 2)
    if zero:
        x = F.pad(x, [0, 0] * (x.ndim - 2) + [0, 1])
    if x.ndim == 2 and x.device.type == "cpu" and x.dtype != torch.float32:
        # there index_select is quick for float32 alone; bits are gathered up to five times faster
        bits = x.view(torch.int16) if x.element_size() == 2 else x
        return bits.gather(1, index.expand(len(x), len(index))).view(x.dtype)
    return x.index_select(1, index)
