"""The pruning criteria: a score [channels] per BatchNorm channel, all layers in order; `criteria.CRITERIA` names them.

The channels with the smallest scores, over the whole network, are pruned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebsim.errors import ConfigError
from ebsim.tickets.batchnorms import bn_layers, gammas
from ebsim.tickets.connectivity import producers

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class ScoringInputs:
    """What a criterion may use beside the network: a batch of images [B, C, H, W] and labels [B], and a seed."""

    batch: Callable[[], Batch]
    seed: int = 0


def gamma(model: nn.Module, inputs: ScoringInputs) -> Tensor:
    """The BatchNorm scale, signed as it is stored; its size ranks (Liu et al. 2017, the paper's choice)."""
    return gammas(model)


def magnitude(model: nn.Module, inputs: ScoringInputs) -> Tensor:
    """L2 norm of the filters that make the channel, relative to the layer's root mean square (Li et al. 2017).

    Norms of different layers differ with their size, hence the division. A channel of a residual stream is made by
    several convolutions: their squares are added.
    """
    made = producers(model)
    scores: list[Tensor] = []
    for name in bn_layers(model):
        if not made.get(name):
            raise ConfigError(f'no convolution makes the channels of {name} one by one; rank by "gamma" or "taylor".')
        filters = [model.get_parameter(f"{maker}.weight").detach().float().flatten(1) for maker in made[name]]
        squares = torch.stack([weight.square().sum(1) for weight in filters]).sum(0)
        scores.append((squares / squares.mean().clamp_min(torch.finfo(squares.dtype).tiny)).sqrt())
    return torch.cat(scores).cpu()


def taylor(model: nn.Module, inputs: ScoringInputs) -> Tensor:
    """First-order change of the loss when the channel is masked: |gamma dL/dgamma + beta dL/dbeta|.

    Molchanov et al. 2019 with the BatchNorm channel as the gate; L is the mean cross-entropy of one batch, with
    running statistics. Masking sets gamma and beta to zero, so this is exact to first order.
    """
    names = [f"{name}.{part}" for name in bn_layers(model) for part in ("weight", "bias")]
    flat = [model.get_parameter(name) for name in names]
    device = flat[0].device
    images, labels = (tensor.to(device) for tensor in inputs.batch())
    training = [module for module in model.modules() if module.training]
    model.eval()
    with torch.enable_grad():
        gradients = torch.autograd.grad(functional.cross_entropy(model(images), labels), flat)
    for module in training:
        module.training = True
    change = [(p.detach() * g).float() for p, g in zip(flat, gradients, strict=True)]
    return torch.cat([(g + b).abs() for g, b in zip(change[::2], change[1::2], strict=True)]).cpu()


def random(model: nn.Module, inputs: ScoringInputs) -> Tensor:
    """Uniform random scores, redrawn for every epoch: a control, whose masks never settle."""
    generator = torch.Generator().manual_seed(inputs.seed)
    return torch.rand(sum(bn_layers(model).values()), generator=generator)
