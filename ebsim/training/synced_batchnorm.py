"""BatchNorm over the whole batch of a team: mean and variance of all processes' images, as one process would have.

torch's own SyncBatchNorm refuses CPUs. Here the sums over a process's images are added up over the team, in both
passes: y = (x - m) / s * weight + bias with m, s^2 the mean and (biased) variance over all n values of a channel, and

    dL/dx = weight / s * (dL/dy - mean(dL/dy) - x_hat * mean(dL/dy * x_hat))

with means over the team too. All sums are taken in float64, so that they hardly depend on who has which images: what is
left of float32's rounding is that of single values. Gradients of weight and bias are those of the process's own images:
they are summed over the team with all other gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ebsim.training.team import Team


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, team: Team
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dims, shape = [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = torch.full((1,), x.numel() / x.shape[1], device=x.device, dtype=torch.float64)
        total = torch.cat([wide.sum(dims, dtype=torch.float64), count])
        team.sum_([total])
        exact, count = total[:-1] / total[-1], total[-1]
        mean = exact.to(wide.dtype)
        centred = wide - mean.view(shape)
        squares = centred.square().sum(dims, dtype=torch.float64)
        team.sum_([squares])
        variance = squares / count - (exact - mean).square()
        scale = torch.rsqrt(variance + eps).to(wide.dtype)
        # As torch's own kernel rounds: x * alpha + beta, not (x - mean) * scale, so that a ReLU sees the same signs.
        alpha = scale * weight.to(wide.dtype)
        beta = bias.to(wide.dtype) - mean * alpha
        ctx.save_for_backward(centred, weight, scale, count)
        ctx.team, ctx.dims, ctx.shape = team, dims, shape
        ctx.mark_non_differentiable(mean, variance, count)
        y = torch.addcmul(beta.view(shape), wide, alpha.view(shape))
        return y.to(x.dtype), mean, variance, count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        centred, weight, scale, count = ctx.saved_tensors
        wide = dy.to(centred.dtype)
        own = torch.stack([part.sum(ctx.dims, dtype=torch.float64) for part in (wide, wide * centred)])
        total = own.clone()
        ctx.team.sum_([total])
        mean, slope = total[0] / count, total[1] * scale * scale / count
        mean, slope = mean.to(wide.dtype), slope.to(wide.dtype)
        factor = scale * weight.to(wide.dtype)
        dx = (wide - mean.view(ctx.shape) - centred * slope.view(ctx.shape)) * factor.view(ctx.shape)
        return dx.to(dy.dtype), (own[1] * scale).to(weight.dtype), own[0].to(weight.dtype), None, None


class _Synced:
    """Mixed into a BatchNorm class, whose `forward` it replaces in training."""

    team: Team

    def forward(self: Any, x: Tensor) -> Tensor:
        if not (self.training and self.together):
            return super().forward(x)  # type: ignore[misc]
        self._check_input_dim(x)
        y, mean, variance, count = _Normalize.apply(x, self.weight, self.bias, self.eps, self.team)
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked += 1
                share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
                unbiased = variance * (count / (count - 1))
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)
        return y


_classes: dict[type, type] = {}


def _class(kind: type) -> type:
    """The synchronized class of a BatchNorm class; under its name, so that tracing still sees a layer of torch."""
    if kind not in _classes:
        _classes[kind] = type(kind.__name__, (_Synced, kind), {"__module__": kind.__module__})
    return _classes[kind]


def synchronize(model: nn.Module, team: Team) -> None:
    """Let the BatchNorm layers of a network take their statistics over the team, in place; names and state stay."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, _Synced) and module.affine:
            module.__class__ = _class(type(module))
            vars(module).update(team=team, together=True)


def together(model: nn.Module, yes: bool) -> None:
    """Whether the next batches are shared over the team, or computed whole by every process."""
    for module in model.modules():
        if "together" in vars(module):
            vars(module)["together"] = yes
