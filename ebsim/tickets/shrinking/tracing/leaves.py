"""Leaf modules of the trace: which modules stay one node, and which have hooks or a replaced forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ebsim.tickets.shrinking.select import Select

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
LAYERS = (_ConvNd, _BatchNorm, nn.Linear)


def is_leaf(module: nn.Module) -> bool:
    """Whether a call of the module is one node of the graph; the code of any other is followed.

    torch's own modules are leaves, and subclasses of its layers that leave `forward` alone. A module around which
    hooks or a replaced `forward` run is one too, since what they do is unknown. None that holds a BatchNorm.
    """
    if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return False
    if any(isinstance(child, _BatchNorm) for child in module.modules() if child is not module):
        return False
    if surprises(module) or is_torchs(type(module)) or isinstance(module, Select | torch.jit.ScriptModule):
        return True
    known = next((kind for kind in type(module).__mro__ if is_torchs(kind)), nn.Module)
    return isinstance(module, LAYERS) and not overrides_forward(type(module), known)


def surprises(module: nn.Module) -> str:
    """What runs around or in the place of the forward of the module's class; empty where nothing does."""
    if isinstance(module, torch.jit.ScriptModule):
        return ""
    for name in _HOOKS:
        if vars(module).get(name):
            return "a hook"
    if "forward" in vars(module):
        return "a forward of its own"
    if "parametrizations" in module._modules:
        return "a parametrization"
    return ""


def overrides_forward(kind: type, known: Any) -> bool:
    """Whether a class computes something else than `known`, the class that it comes from."""
    return any(getattr(kind, name, None) is not getattr(known, name, None) for name in ("forward", "_conv_forward"))


def is_torchs(kind: type) -> bool:
    return kind.__module__.startswith(("torch.nn.modules", "torch.ao.nn", "torch.nn.utils")) and kind is not nn.Module
