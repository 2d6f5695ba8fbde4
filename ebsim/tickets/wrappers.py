"""Unwraps a network from DataParallel, DDP, torch.compile or AveragedModel."""

from __future__ import annotations

from typing import Any

from torch import nn

_HELD_AS = {"DataParallel": "module", "DistributedDataParallel": "module", "AveragedModel": "module"}


def bare(model: nn.Module) -> nn.Module:
    """The network itself; masks and shrunk networks speak of its layers, with its names."""
    while True:
        compiled = vars(model).get("_modules", {}).get("_orig_mod")
        held: Any = compiled if compiled is not None else model._modules.get(_HELD_AS.get(type(model).__name__, ""))
        if held is None:
            return model
        model = held
