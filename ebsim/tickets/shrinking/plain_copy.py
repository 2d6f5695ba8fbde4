"""Deep copy of a network with plain layers and its own tensors, to be sliced."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

_ROOM = "ebsim.precision"  # whose hooks go with the precision
_PLAIN, _ROUNDING = "_plain", "_precision"  # of a layer with a precision: its class without, and what does the rounding


def plain_copy(model: nn.Module) -> nn.Module:
    """A deep copy, every layer of the class that it has without a precision.

    Tensors that are computed from parameters (old weight_norm, torch.nn.utils.prune, a cache in a dictionary) are
    copied as values: the hook that computed them does it again before they are read.
    """
    shared = [vars(module)[_ROUNDING] for module in model.modules() if _ROUNDING in vars(module)]
    memo: dict[int, object] = {id(one): one for one in shared}  # it knows the whole network: not copied
    with torch.inference_mode(False), torch.no_grad():
        for module in model.modules():
            own = [held for name, held in vars(module).items() if name not in ("_modules", "_parameters")]
            for value in (*module._parameters.values(), *pytree.tree_leaves(own)):
                if isinstance(value, Tensor) and (value.is_inference() or not value.is_leaf):
                    fresh = value.detach().clone()
                    memo[id(value)] = (
                        nn.Parameter(fresh, value.requires_grad) if isinstance(value, nn.Parameter) else fresh
                    )
        root = copy.deepcopy(model, memo)
    for module in root.modules():
        if (plain := getattr(type(module), _PLAIN, None)) is not None:
            module.__class__ = plain
            del vars(module)[_ROUNDING]
            for key in [
                k
                for k, hook in module._forward_pre_hooks.items()
                if str(getattr(hook, "__module__", "")).startswith(_ROOM)
            ]:
                del module._forward_pre_hooks[key]
    return root


def has_precision(model: nn.Module) -> bool:
    return any(hasattr(type(module), _PLAIN) for module in model.modules())
