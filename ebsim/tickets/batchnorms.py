"""The BatchNorm layers of a network whose channels are ranked and masked: names, channels and scales (gamma)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ebsim.errors import ConfigError
from ebsim.tickets.wrappers import bare


def bn_layers(model: nn.Module) -> dict[str, int]:
    """Name -> channels of every BatchNorm with a scale, in module order. ConfigError without
    any."""
    return {name: bn.num_features for name, bn in bn_modules(model)}


def gammas(model: nn.Module) -> Tensor:
    """The scales of all BatchNorm layers, signed, flat [n], on the CPU, at least float32."""
    return named_gammas(model)[0]


def named_gammas(model: nn.Module) -> tuple[Tensor, dict[str, int]]:
    """`gammas` and `bn_layers` from one walk over the modules and one copy to the CPU."""
    found = bn_modules(model)
    with torch.no_grad():
        flat = torch.cat([bn.weight for _, bn in found])
    flat = flat.to("cpu", torch.promote_types(flat.dtype, torch.float32))
    return flat, {name: bn.num_features for name, bn in found}


def bn_modules(model: nn.Module) -> list[tuple[str, _BatchNorm]]:
    """Name and module of every BatchNorm with a scale, in module order. ConfigError without any."""
    model = bare(model)
    found: list[tuple[str, _BatchNorm]] = []
    _collect(model, "", found, set())
    if not found:
        raise ConfigError(
            f"{type(model).__name__} has no BatchNorm layer with a scale, so there is nothing to rank channels by. "
            "Use a network with BatchNorm."
        )
    return found


def _collect(module: nn.Module, name: str, found: list[tuple[str, _BatchNorm]], seen: set[nn.Module]) -> None:
    """`named_modules` for BatchNorm alone, without its generators: masks are drawn after every epoch."""
    if isinstance(module, _BatchNorm) and module not in seen and module._parameters["weight"] is not None:
        found.append((name, module))
    seen.add(module)
    for key, child in module._modules.items():
        if child is not None and (child._modules or isinstance(child, _BatchNorm)) and child not in seen:
            _collect(child, f"{name}.{key}" if name else key, found, seen)
