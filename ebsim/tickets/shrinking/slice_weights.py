"""Cuts the weights of a layer (convolution, linear, BatchNorm, PReLU) down to the kept channels.

A group of a grouped convolution must have as many inputs and outputs as every other. So whole groups without a kept
output go, and the others are filled up with their own unused channels to the widest kept group; an ordinary layer is
the case of one group, a depthwise one that of one channel each.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd


class SlicePlan(NamedTuple):
    """Which channels a layer reads and writes, ascending, in the numbering of the dense network."""

    ins: np.ndarray
    outs: np.ndarray
    groups: int = 1


def geometry(module: nn.Module) -> tuple[int, int, int]:
    """(groups, inputs per group, outputs per group) of a convolution or linear layer."""
    if isinstance(module, _ConvNd):
        return module.groups, module.in_channels // module.groups, module.out_channels // module.groups
    assert isinstance(module, nn.Linear)
    return 1, module.in_features, module.out_features


def plan_mix(module: nn.Module, live_in: np.ndarray, keep: np.ndarray) -> SlicePlan:
    """Plan of a convolution or linear layer from its live inputs and its kept outputs (bool, dense widths).

    Keeps at least one channel on each side, so that there is always a tensor that carries the shape.
    """
    groups, ins, outs = geometry(module)
    alive = np.flatnonzero(keep.reshape(groups, outs).any(1))
    if not len(alive):
        alive = np.zeros(1, int)
    return SlicePlan(
        _evenly(live_in.reshape(groups, ins), alive), _evenly(keep.reshape(groups, outs), alive), len(alive)
    )


def _evenly(wanted: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """Equally many channels of every living group, the wanted ones first; ascending dense numbers."""
    count = max(1, int(wanted[alive].sum(1).max()))
    local = np.argsort(~wanted[alive], axis=1, kind="stable")[:, :count]
    return (np.sort(local, axis=1) + alive[:, None] * wanted.shape[1]).ravel()


def shrink(module: nn.Module, plan: SlicePlan) -> None:
    """Slice the module's weights and buffers, in place."""
    device = next((t.device for t in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    ins, outs = (torch.from_numpy(i).to(device) for i in (plan.ins, plan.outs))
    if not isinstance(module, _ConvNd | nn.Linear):
        return _shrink_per_channel(module, outs)
    _, per_in, per_out = geometry(module)
    weight = module.weight
    if isinstance(module, _ConvNd) and module.transposed:  # [inputs, outputs per group, ...]
        local = (outs % per_out).view(plan.groups, -1).repeat_interleave(len(ins) // plan.groups, 0)
        rows = ins
    else:  # [outputs, inputs per group, ...]
        local = (ins % per_in).view(plan.groups, -1).repeat_interleave(len(outs) // plan.groups, 0)
        rows = outs
    _replace(module, "weight", weight.detach()[rows[:, None], local])
    if module.bias is not None:
        _replace(module, "bias", module.bias.detach()[outs])
    if isinstance(module, _ConvNd):
        module.in_channels, module.out_channels, module.groups = len(ins), len(outs), plan.groups
    else:
        module.in_features, module.out_features = len(ins), len(outs)


def _shrink_per_channel(module: Any, outs: Tensor) -> None:
    """BatchNorm or PReLU: everything with one entry per channel."""
    width = module.num_features if isinstance(module, _BatchNorm) else module.num_parameters
    for name, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        if value.shape == (width,):
            _replace(module, name, value.detach()[outs])
    if isinstance(module, _BatchNorm):
        module.num_features = len(outs)
    else:
        module.num_parameters = len(outs)


def _replace(module: nn.Module, name: str, value: Tensor) -> None:
    old = getattr(module, name)
    if old.ndim == 4 and old.is_contiguous(memory_format=torch.channels_last) and not old.is_contiguous():
        value = value.contiguous(memory_format=torch.channels_last)
    setattr(module, name, nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value)
