"""Rounds gradients, momentum and stored weights by hooks on a stock optimizer, whose class and state dict stay.

Before a step the gradients are rounded, after it the momentum and then the stored weights, as SWALP and qtorch do;
inside the step the optimizer computes in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ebsim.errors import ConfigError
from ebsim.precision.formats.number_format import Operand

ROLES = ("gradient", "momentum", "stored")
_MOMENTUM = "momentum_buffer"


def attach(
    optimizer: Optimizer,
    parameters: Mapping[Tensor, tuple[str, Mapping[str, Operand]]],
    quantize: Callable[..., Tensor],
) -> list[Any]:
    """Register the two hooks; `parameters` maps each parameter to its name and role -> operand."""
    if not isinstance(optimizer, torch.optim.SGD):
        raise ConfigError(
            f"attach: low-precision updates are defined for torch.optim.SGD, not {type(optimizer).__name__}"
        )

    def rounded(parameter: Tensor, role: str, value: Tensor | None) -> None:
        name, operands = parameters[parameter]
        if value is not None and not operands[role].untouched:
            value.copy_(quantize(name, role, value, operands[role]))

    @torch.no_grad()
    def before(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for parameter in parameters:
            rounded(parameter, "gradient", parameter.grad)

    @torch.no_grad()
    def after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for parameter in parameters:
            if parameter.grad is not None:
                rounded(parameter, "momentum", optimizer.state[parameter].get(_MOMENTUM))
                rounded(parameter, "stored", parameter)

    return [
        optimizer.register_step_pre_hook(before),
        optimizer.register_step_post_hook(after),
    ]
