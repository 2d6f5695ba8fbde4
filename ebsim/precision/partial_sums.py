"""Simulated accumulators: what a sum of products becomes where the running sum is kept in a narrow float.

    partial_sums = { step = 4, chunk = 64, rounding = "nearest", total = "fp32" }

The products of a sum are taken in order. `step` of them are added in fp32 and the result is added to the running sum,
which is then rounded to the declared accumulator (tf32, bf16, fp16; beyond its largest value it is Inf, as in
hardware). After `chunk` products (0: never) a new running sum begins; the sums of the chunks are added up in fp32, or
in the accumulator too (total = "accumulator"). Chunks go back to Wang et al., 2018 (fp16, chunks of 64, totals in
fp16); tensor cores that promote a sum to fp32 every 128 products are chunk = 128.

Order: forward, input channels of a group, then positions of the kernel, in memory order; input gradient, output
channels, then positions of the flipped kernel (products with the zeros between strides included); weight gradient,
samples, then output positions. The values that are summed are those of the operands, scales included. Slow (a few
tensor operations for each product of a sum), for small networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ebsim.precision.formats.accumulators import PartialSums

Draw = Callable[[int, Tensor], Tensor]  # number of the rounding, sums [n, ...] -> uniform numbers of that shape


def contract(a: Tensor, b: Tensor, how: PartialSums, draw: Draw | None) -> Tensor:
    """sum over K of a [n, G, K, L] * b [1, G, O, K], as `how` adds: [n, G, O, L]."""
    chunk = how.chunk or a.shape[2]
    a, b = F.pad(a, (0, 0, 0, -a.shape[2] % chunk)), F.pad(b, (0, -b.shape[3] % chunk))
    a = a.unflatten(2, (-1, chunk))  # [n, G, chunks, chunk, L]
    b = b.unflatten(3, (-1, chunk)).movedim(3, 2)  # [1, G, chunks, O, chunk]
    number = 0

    def kept(x: Tensor) -> Tensor:
        nonlocal number
        number += 1
        return how.rounded(x, draw(number, x) if draw is not None and how.rounding == "stochastic" else None)

    running = a.new_zeros(1)
    for start in range(0, chunk, how.step):
        part = a[:, :, :, start, None, :] * b[..., start, None]
        for i in range(start + 1, min(start + how.step, chunk)):
            part = part + a[:, :, :, i, None, :] * b[..., i, None]
        running = kept(running + part)
    total = running[:, :, 0]
    for i in range(1, running.shape[2]):
        total = total + running[:, :, i]
        total = kept(total) if how.total == "accumulator" else total
    return total


class ProductOfSums:
    """The products of a Linear."""

    def __init__(self, how: PartialSums, draw: Callable[[str], Draw | None]) -> None:
        self.how, self.draw = how, draw

    def forward(self, a: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        y = self._rows(a, w, "forward")
        return y if b is None else y + b

    def backward(
        self, e: Tensor, a: Tensor, w: Tensor, needs_a: bool, needs_w: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        grad_a = self._rows(e, w.t(), "input_gradient") if needs_a else None
        if not needs_w:
            return grad_a, None
        rows, columns = (x.reshape(-1, x.shape[-1]) for x in (e, a))
        made = contract(columns[None, None], rows.t()[None, None], self.how, self.draw("weight_gradient"))
        return grad_a, made[0, 0]

    def _rows(self, a: Tensor, w: Tensor, phase: str) -> Tensor:
        flat = a.reshape(-1, 1, a.shape[-1], 1)
        made = contract(flat, w[None, None], self.how, self.draw(phase))
        return made.reshape(*a.shape[:-1], w.shape[0])


class ConvolutionOfSums:
    """The products of a convolution of any rank, transposed ones too."""

    def __init__(
        self, geometry: Sequence[Any], groups: int, how: PartialSums, draw: Callable[[str], Draw | None]
    ) -> None:
        self.stride, self.padding, self.dilation, self.transposed, self.output_padding = geometry
        self.groups, self.how, self.draw = groups, how, draw

    def forward(self, a: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        if self.transposed:
            sizes = [
                (n - 1) * s - 2 * p + d * (k - 1) + 1 + more
                for n, s, p, d, k, more in zip(
                    a.shape[2:], self.stride, self.padding, self.dilation, w.shape[2:], self.output_padding, strict=True
                )
            ]
            y = self._spread(a, w, sizes, "forward")
        else:
            y = self._gathered(a, w, "forward")
        return y if b is None else y + b.view(-1, *[1] * (y.dim() - 2))

    def backward(
        self, e: Tensor, a: Tensor, w: Tensor, needs_a: bool, needs_w: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        grad_a = grad_w = None
        if needs_a:
            grad_a = (
                self._gathered(e, w, "input_gradient")
                if self.transposed
                else self._spread(e, w, list(a.shape[2:]), "input_gradient")
            )
        if needs_w:
            grad_w = self._kernel(*((e, a) if self.transposed else (a, e)), w)
        return grad_a, grad_w

    def _windows(self, x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
        """[N, C, ...] -> [N, G, C / G * kernel, positions]: what each position of the kernel sees."""
        rank = x.dim() - 2
        for i, (k, s, d) in enumerate(zip(kernel, stride, self.dilation, strict=True)):
            x = x.unfold(2 + i, d * (k - 1) + 1, s)[..., ::d]
        n, c = x.shape[:2]
        x = x.permute(0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
        return x.reshape(n, self.groups, c // self.groups * torch.Size(kernel).numel(), -1)

    def _padded(self, x: Tensor) -> Tensor:
        return F.pad(x, [p for amount in reversed(self.padding) for p in (amount, amount)])

    def _gathered(self, x: Tensor, w: Tensor, phase: str) -> Tensor:
        """The convolution of x [N, C, ...] with w [O, C / G, ...]."""
        kernel = w.shape[2:]
        windows = self._windows(self._padded(x), kernel, self.stride)
        made = contract(windows, w.reshape(1, self.groups, len(w) // self.groups, -1), self.how, self.draw(phase))
        sizes = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(x.shape[2:], self.padding, self.dilation, kernel, self.stride, strict=True)
        ]
        return made.reshape(len(x), len(w), *sizes)

    def _spread(self, x: Tensor, w: Tensor, sizes: Sequence[int], phase: str) -> Tensor:
        """The transposed convolution of x [N, O, ...] with w [O, C / G, ...], of that size."""
        kernel, rank = w.shape[2:], x.dim() - 2
        apart = x.new_zeros(
            *x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], self.stride, strict=True))
        )  # fmt: skip
        apart[(slice(None), slice(None), *(slice(None, None, s) for s in self.stride))] = x
        pads: list[int] = []
        for n, size, p, d, k in reversed(
            list(zip(apart.shape[2:], sizes, self.padding, self.dilation, kernel, strict=True))
        ):
            left = d * (k - 1) - p
            pads += [left, size + d * (k - 1) - left - n]
        windows = self._windows(F.pad(apart, pads), kernel, [1] * rank)
        flipped = w.flip(list(range(2, 2 + rank))).unflatten(0, (self.groups, -1))  # [G, O / G, C / G, ...]
        columns = flipped.transpose(1, 2).reshape(1, self.groups, w.shape[1], -1)
        made = contract(windows, columns, self.how, self.draw(phase))
        return made.reshape(len(x), self.groups * w.shape[1], *sizes)

    def _kernel(self, a: Tensor, e: Tensor, w: Tensor) -> Tensor:
        """The gradient of w [O, C / G, ...] of the convolution of a [N, C, ...] whose outputs have the error e."""
        windows = self._windows(self._padded(a), w.shape[2:], self.stride)  # [N, G, K, L]
        errors = e.reshape(len(e), self.groups, len(w) // self.groups, -1)  # [N, G, O / G, L]
        positions = errors.shape[-1]
        seen = windows[..., :positions].permute(1, 0, 3, 2).flatten(1, 2)[None]  # [1, G, N L, K]
        given = errors.permute(1, 2, 0, 3).flatten(2, 3)[None]
        return contract(seen, given, self.how, self.draw("weight_gradient")).reshape(w.shape)
