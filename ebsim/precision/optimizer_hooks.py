"""Rounds gradients, momentum and stored weights by hooks on a stock optimizer, whose class and state dict stay.

Before a step the gradients are rounded, after it the optimizer's states and then the stored weights, as SWALP and
qtorch do; inside the step the optimizer computes in fp32. SGD keeps a momentum, Adam and AdamW two moments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from ebsim.errors import ConfigError
from ebsim.precision.formats.number_format import Operand

SECOND = "second_moment"
ROLES = ("gradient", "momentum", "stored", SECOND)
_SGD_STATES = {"momentum": "momentum_buffer"}
_ADAM_STATES = {"momentum": "exp_avg", SECOND: "exp_avg_sq"}  # role -> the state's name in the optimizer


def kind_of(optimizer: Optimizer) -> str:
    """ "adam" or "adamw", whose update has a second moment; "sgd" for every other optimizer."""
    if type(optimizer) is AdamW:
        return "adamw"
    return "adam" if type(optimizer) is Adam else "sgd"


def attach(
    optimizer: Optimizer,
    parameters: Mapping[Tensor, tuple[str, Mapping[str, Operand]]],
    quantize: Callable[..., Tensor],
) -> list[Any]:
    """Register the two hooks; `parameters` maps each parameter to its name and role -> operand."""
    states = _states(optimizer)

    def rounded(parameter: Tensor, role: str, value: Tensor | None) -> None:
        name, operands = parameters[parameter]
        if value is not None and not operands[role].untouched:
            value.copy_(quantize(name, role, value, operands[role]))

    @torch.no_grad()
    def before(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if getattr(optimizer, "grad_scale", None) is not None:
            raise ConfigError(
                "attach: a fused optimizer takes the scale of a GradScaler off within its step, after gradients are "
                "rounded: call scaler.unscale_(optimizer) before scaler.step, or make it with fused=False"
            )
        for parameter in parameters:
            rounded(parameter, "gradient", parameter.grad)

    @torch.no_grad()
    def after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for parameter in parameters:
            if parameter.grad is not None:
                for role, name in states.items():
                    rounded(parameter, role, optimizer.state[parameter].get(name))
                rounded(parameter, "stored", parameter)

    return [
        optimizer.register_step_pre_hook(before),
        optimizer.register_step_post_hook(after),
    ]


def _states(optimizer: Optimizer) -> Mapping[str, str]:
    """Role -> name of the state in this optimizer. ConfigError for one whose states are not known."""
    if isinstance(optimizer, SGD):
        return _SGD_STATES
    if type(optimizer) not in (Adam, AdamW):
        raise ConfigError(
            "attach: low-precision updates are defined for torch.optim.SGD, Adam and AdamW, "
            f"not {type(optimizer).__name__}"
        )
    if any(group["amsgrad"] for group in optimizer.param_groups):
        raise ConfigError("attach: amsgrad keeps a third state, which no role is about: use amsgrad=False")
    return _ADAM_STATES
