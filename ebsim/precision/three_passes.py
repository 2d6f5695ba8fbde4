"""The three products of a layer, each with operands rounded for it: convolutions (transposed ones too) and matrices.

    forward          y     = Q(op(Q(a), Q(w)) + b)
    input_gradient   dL/da = Q(op^T(Q(e), Q(w)))        e = dL/dy
    weight_gradient  dL/dw = op^T(Q(e), Q(a))

The derivative of rounding is taken as 1 (straight-through), or 0 where a "clipped" role saturated. Each operand of
each pass has its own format; passes that agree on one share a single rounded copy, as hardware would read the stored
one twice. Bias and its gradient stay fp32. Sums run in fp32: the accumulator is declared to the hardware model, and
simulated only on request (`partial_sums`).

Every operation says how a tensor lies to the quantizer: `weight` with output channels along dim 0, and for blocks the
axis that a pass sums over (`axis`), with the leading dimensions of a matrix product flattened where they are summed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebsim.precision.formats.accumulators import PartialSums
from ebsim.precision.partial_sums import ConvolutionOfSums, ProductOfSums

Laid = tuple[Tensor, int, Callable[[Tensor], Tensor]]
CHANNELS, SAMPLES = "channels", "samples"
# What blocks run along: the axis that a pass sums over. Of a weight: inputs, or outputs
SUMMED = {
    ("forward", "weight"): CHANNELS,
    ("forward", "activation"): CHANNELS,
    ("forward", "output"): CHANNELS,
    ("input_gradient", "weight"): SAMPLES,
    ("input_gradient", "error"): CHANNELS,
    ("input_gradient", "activation_gradient"): CHANNELS,
    ("weight_gradient", "activation"): SAMPLES,
    ("weight_gradient", "error"): SAMPLES,
}


class Rounding(Protocol):
    """What the products need of a layer's quantizers."""

    weight_shared: bool
    activation_shared: bool
    error_shared: bool

    def begin(self, training: bool) -> Any: ...

    def summed(self, op: Any, call: Any, batch: int) -> Any: ...

    def unclipped(self, role: str, x: Tensor, call: Any, op: Any) -> Tensor | None: ...

    def __call__(self, phase: str, role: str, x: Tensor, call: Any, op: Any) -> Tensor: ...


class ThreePasses(torch.autograd.Function):
    """y = Q(op(Q(a), Q(w), b)) with separately rounded operands in the two backward products."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, a: Tensor, w: Tensor, b: Tensor | None, rounding: Rounding, op: Any, training: bool
    ) -> Tensor:
        call = rounding.begin(training)
        qa, qw = rounding("forward", "activation", a, call, op), rounding("forward", "weight", w, call, op)
        products = rounding.summed(op, call, len(a))
        y = products.forward(qa, qw, b)
        needs = ctx.needs_input_grad
        masks = (
            rounding.unclipped(role, x, call, op) if any(needed) else None
            for role, x, needed in (("activation", a, needs[:1]), ("weight", w, needs[1:2]), ("output", y, needs[:3]))
        )
        ctx.save_for_backward(qa if rounding.activation_shared else a, qw if rounding.weight_shared else w, *masks)
        ctx.rounding, ctx.op, ctx.products, ctx.call = rounding, op, products, call
        # `.data`: not a view in the eyes of autograd, so that an in-place ReLU may follow
        return rounding("forward", "output", y, call, op).data

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, e: Tensor) -> tuple[Tensor | None, ...]:
        rounding, op, products, call = ctx.rounding, ctx.op, ctx.products, ctx.call
        a, w, inside_a, inside_w, inside_y = ctx.saved_tensors
        e = _where(inside_y, e)
        needs_a, needs_w, needs_b = ctx.needs_input_grad[:3]
        error = grad_a = grad_w = None
        if needs_a or (needs_w and rounding.error_shared):
            error = rounding("input_gradient", "error", e, call, op)
        if rounding.error_shared and rounding.weight_shared and rounding.activation_shared:
            if error is not None:
                grad_a, grad_w = products.backward(error, a, w, needs_a, needs_w)
        else:
            if needs_a:
                qw = w if rounding.weight_shared else rounding("input_gradient", "weight", w, call, op)
                grad_a, _ = products.backward(error, a, qw, True, False)
            if needs_w:
                if not rounding.error_shared:
                    error = rounding("weight_gradient", "error", e, call, op)
                qa = a if rounding.activation_shared else rounding("weight_gradient", "activation", a, call, op)
                _, grad_w = products.backward(error, qa, w, False, True)
        if grad_a is not None:
            grad_a = rounding("input_gradient", "activation_gradient", _where(inside_a, grad_a), call, op)
        if grad_w is not None:
            grad_w = _where(inside_w, grad_w)
        return grad_a, grad_w, op.bias_gradient(e) if needs_b else None, None, None, None


def _where(inside: Tensor | None, gradient: Tensor) -> Tensor:
    return gradient if inside is None else torch.where(inside, gradient, 0.0)


class Convolution:
    """The geometry of a convolution of any rank whose padding is already numeric and of zeros."""

    def __init__(self, module: Any, padding: list[int], output_padding: list[int] | None = None) -> None:
        self.transposed, self.groups = output_padding is not None, module.groups
        self.geometry = (
            list(module.stride), padding, list(module.dilation), self.transposed,
            output_padding or [0] * len(padding),
        )  # fmt: skip

    def forward(self, a: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return torch.convolution(a, w, b, *self.geometry, self.groups)

    def backward(
        self, e: Tensor, a: Tensor, w: Tensor, needs_a: bool, needs_w: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        mask = [needs_a, needs_w, False]
        grads = torch.ops.aten.convolution_backward(e, a, w, None, *self.geometry, self.groups, mask)
        return grads[0], grads[1]

    def summing(self, how: PartialSums, draw: Any) -> ConvolutionOfSums:
        """The same products with simulated accumulators."""
        return ConvolutionOfSums(self.geometry, self.groups, how, draw)

    @staticmethod
    def bias_gradient(e: Tensor) -> Tensor:
        return e.sum([d for d in range(e.dim()) if d != 1])

    def laid_out(
        self, x: Tensor, role: str, summed: str, blocks: bool
    ) -> tuple[Tensor, int, Callable[[Tensor], Tensor]]:
        """x for the quantizer, the axis its blocks run along, and the way back."""
        axis = 1 if summed == CHANNELS else 0
        if role == "weight" and self.transposed:  # [inputs, outputs / groups, ...]
            n, per_group, kernel = x.shape[0], x.shape[1], x.shape[2:]
            inputs = n // self.groups
            rows = x.view(self.groups, inputs, per_group, *kernel).transpose(1, 2)
            back = (self.groups, per_group, inputs, *kernel)
            return (
                rows.reshape(self.groups * per_group, inputs, *kernel),
                axis,
                lambda y: y.view(back).transpose(1, 2).reshape(x.shape),
            )
        return x, axis, _same


class Product:
    """The matrix product of a Linear, over any leading dimensions."""

    forward = staticmethod(F.linear)
    summing = ProductOfSums

    @staticmethod
    def backward(e: Tensor, a: Tensor, w: Tensor, needs_a: bool, needs_w: bool) -> tuple[Tensor | None, Tensor | None]:
        grad_a = e @ w if needs_a else None
        grad_w = e.reshape(-1, e.shape[-1]).t() @ a.reshape(-1, a.shape[-1]) if needs_w else None
        return grad_a, grad_w

    @staticmethod
    def bias_gradient(e: Tensor) -> Tensor:
        return e.reshape(-1, e.shape[-1]).sum(0)

    @staticmethod
    def laid_out(x: Tensor, role: str, summed: str, blocks: bool) -> Laid:
        """x for the quantizer, the axis its blocks run along, and the way back."""
        if summed == CHANNELS:
            return x, x.dim() - 1, _same
        if blocks and x.dim() > 2:  # the sum runs over every leading dimension
            return x.reshape(-1, x.shape[-1]), 0, lambda y: y.view(x.shape)
        return x, 0, _same


def _same(y: Tensor) -> Tensor:
    return y


def run(module: nn.Module, op: Any, a: Tensor, w: Tensor, b: Tensor | None, rounding: Rounding) -> Tensor:
    """The layer's output, rounded as `rounding` says, in a training or an evaluation."""
    return ThreePasses.apply(a, w, b, rounding, op, module.training)
