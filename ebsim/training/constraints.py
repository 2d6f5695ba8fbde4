"""Constraints on the weights, applied after every step or epoch of a training: fixed zeros, soft filter pruning.

Both are functions of the weights alone, so a checkpoint needs nothing more to resume under them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ebsim.tickets import ChannelMask


class ZeroWeights:
    """Pruned weights stay exactly zero: after every step they and their momentum are multiplied by the mask.

    mask: one bit per weight, by parameter name (a mask is bits by layer, be they channels or weights).
    """

    def __init__(self, mask: ChannelMask) -> None:
        self.mask = mask
        self._of: nn.Module | None = None
        self._weights: list[Tensor] = []
        self._keep: list[Tensor] = []

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Zero the pruned weights of a network, in place."""
        self._prepare(model)
        torch._foreach_mul_(self._weights, self._keep)

    @torch.no_grad()
    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Zero the pruned weights and their momentum, so that neither momentum nor weight decay brings one back."""
        self.apply(model)
        buffers = [optimizer.state[weight].get("momentum_buffer") for weight in self._weights]
        known = [(buffer, keep) for buffer, keep in zip(buffers, self._keep, strict=True) if buffer is not None]
        if known:
            torch._foreach_mul_(*map(list, zip(*known, strict=True)))

    def after_epoch(self, model: nn.Module, epoch: int) -> None:
        """No-op: the mask holds after every step."""

    def _prepare(self, model: nn.Module) -> None:
        """Find the weights and make the masks factors of their type, device and memory layout; once per network."""
        if self._of is not model:
            self._of = model
            self._weights = [model.get_parameter(name) for name in self.mask.layers]
            self._keep = [
                torch.empty_like(weight).copy_(self.mask[name].view(weight.shape))
                for name, weight in zip(self.mask.layers, self._weights, strict=True)
            ]


class SoftFilters:
    """Soft filter pruning: after every epoch the weakest filters of each convolution become zero, but go on training.

    filters: BatchNorm layer -> the convolution that makes its channels. ratio: fraction of each layer's filters,
    rounded down as the authors do; one at least stays. After epoch `last` the channel's scale and shift become zero
    too, so that it can be cut out; before that they must not, for with all three at zero no gradient would reach the
    filter and it could never come back.
    """

    def __init__(self, filters: Mapping[str, str], ratio: float, last: int) -> None:
        self.filters = dict(filters)
        self.ratio = ratio
        self.last = last

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """No-op: within an epoch every filter may grow again."""

    @torch.no_grad()
    def after_epoch(self, model: nn.Module, epoch: int) -> None:
        """Zero the filters with the smallest L2 norms."""
        for norm, convolution in self.filters.items():
            names = (f"{convolution}.weight", f"{norm}.weight", f"{norm}.bias")
            weight, *affine = map(model.get_parameter, names)
            sizes = weight.float().flatten(1).norm(dim=1)
            count = min(int(self.ratio * len(sizes) + 1e-9), len(sizes) - 1)  # 0.7 * 10 is 7, not 6.999...
            weakest = sizes.argsort(stable=True)[:count]
            for tensor in (weight, *(affine if epoch == self.last else [])):
                tensor[weakest] = 0
