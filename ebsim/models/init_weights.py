"""Weight initialization as in the paper's recipe, of a new network or a shrunk one.

Convolutions ~ N(0, sqrt(2 / (k_h k_w out))), biases zero; BatchNorm gamma = 0.5 for the CIFAR networks and 1.0 for
ImageNet's, beta = 0, running statistics reset. For ungrouped convolutions this is He's fan-out rule, so one rule
serves both recipes. The linear layer keeps torch's own uniform rule in the ResNets, and N(0, 0.01) in VGG.
Source: the authors' model files and scripts (Early-Bird-Tickets); "out" is the layer's own width, so a shrunk layer is
initialized as the smaller layer that it is.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ebsim.models.catalogue import FAMILIES


def initialize(
    model: nn.Module,
    *,
    family: str = "preresnet",
    gamma_init: float | None = None,
    seed: int | None = None,
) -> nn.Module:
    """Draw every weight of `model` afresh, in place and in module order; returns the model.

    `gamma_init` defaults to the family's own. With a `seed` the result depends on nothing else and torch's global
    generator is left alone; without one the global generator is used.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    gamma = next(iter(FAMILIES[family].gamma_init.values())) if gamma_init is None else gamma_init
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, _ConvNd):
                _initialize_convolution(module, generator)
            elif isinstance(module, nn.Linear):
                _initialize_linear(module, FAMILIES[family].linear_init, generator)
            elif isinstance(module, _BatchNorm):
                module.reset_running_stats()
                if module.affine:
                    module.weight.fill_(gamma)
                    module.bias.zero_()
    return model


def _initialize_convolution(module: _ConvNd, generator: torch.Generator | None) -> None:
    std = math.sqrt(2.0 / (math.prod(module.kernel_size) * max(1, module.out_channels)))
    _fill_normal(module.weight, std, generator)
    if module.bias is not None:
        module.bias.zero_()


def _initialize_linear(module: nn.Linear, rule: str, generator: torch.Generator | None) -> None:
    if rule == "normal":
        _fill_normal(module.weight, 0.01, generator)
        if module.bias is not None:
            module.bias.zero_()
        return
    bound = 1.0 / math.sqrt(max(1, module.in_features))
    _fill_uniform(module.weight, bound, generator)
    if module.bias is not None:
        _fill_uniform(module.bias, bound, generator)


# Drawn on the CPU and copied: the same seed gives the same weights on every device.
def _fill_normal(weight: torch.Tensor, std: float, generator: torch.Generator | None) -> None:
    weight.copy_(torch.empty(weight.shape).normal_(0.0, std, generator=generator))


def _fill_uniform(weight: torch.Tensor, bound: float, generator: torch.Generator | None) -> None:
    weight.copy_(torch.empty(weight.shape).uniform_(-bound, bound, generator=generator))
