"""Functions that only shrunk networks call: shape guards and out-of-place assignment; one node each in a trace."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from ebsim.errors import CompactError


@fx.wrap
def expect(found: Any, traced: Any) -> None:
    """Part of a shrunk network: its code took a branch by a size, and was shrunk for that branch."""
    if found != traced:
        raise CompactError(
            f"the network's code goes by the size of its input: it was shrunk for {traced}, this input gives {found}. "
            "Call compact with an example of this size."
        )


@fx.wrap
def assigned(tensor: Tensor, index: Any, value: Any) -> Tensor:
    """tensor[index] = value, on a copy."""
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


@fx.wrap
def squeeze_others(tensor: Tensor, dim: int) -> Tensor:
    """tensor.squeeze(), which leaves dimension `dim` alone: in the dense network it is wider than one."""
    return tensor.squeeze(tuple(d for d in range(tensor.ndim) if d != dim))
