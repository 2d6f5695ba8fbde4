"""`torch.compile` of a network for training: as a whole, block by block, or searching for the fastest kernels.

Blocks of the same shapes share one compiled graph, so that PreResNet101's 33 blocks cost six compilations; those of a
ticket all have widths of their own and share nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ebsim.config import Train
from ebsim.errors import ConfigError
from ebsim.runs.provenance import environment

FUSED = "fused"
_MOST_GRAPHS = 256  # of one forward function; torch's 8 would let the others run eagerly without a word


def compiled(model: nn.Module, how: bool | str) -> Callable[[Tensor], Tensor]:
    """What to call instead of the model: the model itself, or its compiled form. how: `train.compile`."""
    if how is False:
        return model
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_GRAPHS)
    if how == "blocks":
        for block in blocks(model):
            block.compile()
        return model
    return torch.compile(model, mode="max-autotune-no-cudagraphs" if how == "max-autotune" else None)


def step_forward(model: nn.Module, train: Train, *, rounded: bool) -> Callable[[Tensor], Tensor]:
    """What a training step calls: the model, compiled (`train.compile`), or with fused kernels (`train.kernels`).

    rounded: the network trains in a simulated precision, which rounds between its layers, or observes one; then the
    library's kernels stay. Raises `ConfigError` where fused kernels are not possible.
    """
    if train.kernels != FUSED:
        return compiled(model, train.compile)
    if train.compile:
        raise ConfigError('train.kernels = "fused" and train.compile exclude each other: set one of them.')
    if any(parameter.device.type != "cpu" for parameter in model.parameters()):
        raise ConfigError('train.kernels = "fused" is made for CPUs: set train.device = "cpu", or use "library".')
    if rounded:
        return model
    from ebsim.training.kernels.fusion import fused

    return fused(model)


def conditions(train: Train, device: torch.device) -> dict[str, Any]:
    """The environment that epochs are trained in, with what compiled the kernels if they are ours."""
    out = environment(str(device))
    if train.kernels == FUSED:
        from ebsim.training.kernels.library import kernels

        out["kernels"] = kernels().made_by
    return out


def blocks(model: nn.Module) -> list[nn.Module]:
    """The smallest modules with a forward of their own that hold several convolutions, in module order."""
    found = [module for module in model.modules() if _convolutions(module) > 1 and _callable(module)]
    return [module for module in found if not any(other is not module and other in found for other in module.modules())]


def _convolutions(module: nn.Module) -> int:
    return sum(isinstance(part, _ConvNd) for part in module.modules())


def _callable(module: nn.Module) -> bool:
    return type(module).forward is not nn.Module.forward
