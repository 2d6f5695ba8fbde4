"""Functions that only shrunk networks call: shape guards and out-of-place assignment; one node each in a trace."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from ebsim.errors import CompactError


def one_step(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let torch.fx, which traces shrunk networks again, write a call as one node."""

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        traced = next((a for a in args if issubclass(type(a), fx.Proxy)), None)
        return function(*args) if traced is None else traced.tracer.create_proxy("call_function", call, args, {})

    return call


@one_step
def expect(found: Any, traced: Any) -> None:
    """Part of a shrunk network: its code took a branch by a size, and was shrunk for that branch."""
    if isinstance(found, Tensor):  # while torch.jit traces, whose graphs hold for the sizes of their example anyway
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            found = found.item()
    if found != traced:
        raise CompactError(
            f"the network's code goes by the size of its input: it was shrunk for {traced}, this input gives {found}. "
            "Call compact with an example of this size."
        )


@one_step
def assigned(tensor: Tensor, index: Any, value: Any) -> Tensor:
    """tensor[index] = value, on a copy."""
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


@one_step
def squeeze_others(tensor: Tensor, dim: int) -> Tensor:
    """tensor.squeeze(), which leaves dimension `dim` alone: in the dense network it is wider than one."""
    return tensor.squeeze(tuple(d for d in range(tensor.ndim) if d != dim))
