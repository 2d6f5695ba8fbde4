"""BatchNorm with the batch's statistics and ReLU in one pass each way, after a selection of channels if there is one.

Library kernels read and write an activation nine times forward and backward, and are slow where the number of channels
is no multiple of a vector. Here the forward pass reads it twice and writes it once, the backward pass reads twice two
of them and writes one; the output of the BatchNorm is never stored: its sign is computed again from the input.

The function is torch's up to rounding: sums are taken in float over runs of 64 numbers and from there in double. In
bf16 the output is rounded once, as torch does; statistics are those of the bf16 numbers. Results depend on the number
of threads as torch's do: each takes a range of rows.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebsim.tickets.shrinking.select import Select
from ebsim.training.kernels.library import kernels

_ROWS_PER_THREAD = 2048  # fewer are not worth a thread


class FusedBatchNormReLU(nn.Module):
    """[N, C, H, W] -> ReLU(BatchNorm(selected channels)); shares the BatchNorm of the network it is put into.

    Anything that the kernel is not made for (evaluation, other layouts and types, a GPU) goes through torch.
    """

    def __init__(self, bn: nn.BatchNorm2d, selection: Select | None) -> None:
        super().__init__()
        self.bn, self.selection = bn, selection
        if selection is not None:
            kept = torch.zeros(selection.width, dtype=torch.uint8)
            kept[selection.index.cpu()] = 1
            self.register_buffer("kept", kept, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        bn = self.bn
        if bn.training and fits(x) and bn.weight.dtype == torch.float32:
            if bn.num_batches_tracked is not None:
                bn.num_batches_tracked.add_(1)
            kept = None if self.selection is None else self.kept
            out: Tensor = _Fused.apply(
                x, bn.weight, bn.bias, bn.running_mean, bn.running_var, kept, bn.eps, bn.momentum
            )
            return out
        return functional.relu(bn(x if self.selection is None else self.selection(x)))


def fits(x: Tensor) -> bool:
    """Whether the kernel takes a tensor: CPU, float32 or bf16, channels_last, more than one value a channel."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.ndim == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.shape[0] * x.shape[2] * x.shape[3] > 1
    )


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        kept: Tensor | None,
        eps: float,
        momentum: float,
    ) -> Tensor:
        lib, is_bf16, channels = kernels().library, x.dtype == torch.bfloat16, len(weight)
        n, width, h, w = x.shape
        rows = n * h * w
        mask = None if kept is None else kept.data_ptr()
        picked = x if kept is None else _like(x, channels)
        around, mean, invstd, scale, shift = torch.empty(5, channels).unbind()
        parts = _parts(rows)
        sums = torch.zeros(len(parts), 2, channels, dtype=torch.float64)
        lib.ebsim_near_mean(is_bf16, x.data_ptr(), width, mask, rows, around.data_ptr())
        _each(parts, lambda i, begin, end: lib.ebsim_stats(
            is_bf16, x.data_ptr(), width, mask, channels, begin, end, picked.data_ptr(), around.data_ptr(),
            sums[i].data_ptr(),
        ))  # fmt: skip
        lib.ebsim_normalizer(
            sums.data_ptr(), len(parts), channels, rows, around.data_ptr(), weight.data_ptr(), bias.data_ptr(), eps,
            momentum, running_mean.data_ptr(), running_var.data_ptr(), mean.data_ptr(), invstd.data_ptr(),
            scale.data_ptr(), shift.data_ptr(),
        )  # fmt: skip
        out = torch.empty_like(picked)
        _each(parts, lambda i, begin, end: lib.ebsim_apply(
            is_bf16, picked.data_ptr(), channels, begin, end, scale.data_ptr(), shift.data_ptr(), out.data_ptr()
        ))  # fmt: skip
        ctx.save_for_backward(picked, mean, invstd, scale, shift, kept)
        ctx.width = width
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        picked, mean, invstd, scale, shift, kept = ctx.saved_tensors
        lib, is_bf16, channels = kernels().library, picked.dtype == torch.bfloat16, len(mean)
        rows = picked.numel() // channels
        gradient = gradient.to(picked.dtype).contiguous(memory_format=torch.channels_last)
        weight_gradient, bias_gradient, slope, level = torch.empty(4, channels).unbind()
        parts = _parts(rows)
        sums = torch.zeros(len(parts), 2, channels, dtype=torch.float64)
        _each(parts, lambda i, begin, end: lib.ebsim_gradient_sums(
            is_bf16, picked.data_ptr(), gradient.data_ptr(), channels, begin, end, scale.data_ptr(), shift.data_ptr(),
            mean.data_ptr(), sums[i].data_ptr(),
        ))  # fmt: skip
        lib.ebsim_gradient_terms(
            sums.data_ptr(), len(parts), channels, rows, scale.data_ptr(), invstd.data_ptr(),
            weight_gradient.data_ptr(), bias_gradient.data_ptr(), slope.data_ptr(), level.data_ptr(),
        )  # fmt: skip
        out = torch.empty_like(picked) if kept is None else _like(picked, ctx.width)
        mask = None if kept is None else kept.data_ptr()
        _each(parts, lambda i, begin, end: lib.ebsim_gradient(
            is_bf16, picked.data_ptr(), gradient.data_ptr(), channels, begin, end, scale.data_ptr(), shift.data_ptr(),
            mean.data_ptr(), slope.data_ptr(), level.data_ptr(), out.data_ptr(), ctx.width, mask,
        ))  # fmt: skip
        return out, weight_gradient, bias_gradient, None, None, None, None, None


def _like(x: Tensor, channels: int) -> Tensor:
    n, _, h, w = x.shape
    return torch.empty((n, channels, h, w), dtype=x.dtype, memory_format=torch.channels_last)


def _parts(rows: int) -> list[tuple[int, int]]:
    """A range of rows for each thread."""
    threads = max(1, min(torch.get_num_threads(), rows // _ROWS_PER_THREAD))
    edges = [rows * i // threads for i in range(threads + 1)]
    return list(pairwise(edges))


def _each(parts: list[tuple[int, int]], work: Any) -> None:
    """`work(i, begin, end)` for every part; ctypes lets go of the interpreter lock, so the parts run at once."""
    if len(parts) == 1:
        work(0, *parts[0])
        return
    list(_pool(len(parts)).map(lambda i: work(i, *parts[i]), range(len(parts))))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "ebsim-kernels")
