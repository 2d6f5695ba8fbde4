"""Saves and loads a ticket: the shrunk weights, the mask and the architecture, in one safetensors file.

The shrunk network follows from the dense architecture and the mask alone, so loading builds the dense network anew,
shrinks it to the saved mask and fills in the weights. No code and no graph is stored, nothing is unpickled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ebsim.errors import ConfigError, DamagedError, EbsimError
from ebsim.files import load_tensors, save_tensors
from ebsim.tickets.compaction import Shrunk, compact
from ebsim.tickets.mask import ChannelMask
from ebsim.tickets.shrinking.shrunk import mask_of

_KIND = "ebsim ticket"
_MASK, _STATE = "mask", "state."
MAX_EXAMPLE = 1 << 27  # numbers in an example input; more are refused before memory is taken


def save_ticket(path: str | Path, model: Shrunk, mask: ChannelMask, architecture: Mapping[str, Any]) -> None:
    """Write a shrunk network; `architecture` is plain JSON from which `load_ticket`'s `build` makes the dense one.

    Errors: ConfigError when the mask is not the one it was shrunk to, or an input was no tensor.
    """
    if mask != mask_of(model):
        raise ConfigError("this network was shrunk to another mask; save it with its own (model.mask)")
    if not all(isinstance(x, Tensor) for x in model._call.tensors):
        raise ConfigError("a network with inputs other than tensors cannot be saved as a ticket; save its state_dict")
    bits, info = mask.pack()
    example = [[list(x.shape), str(x.dtype).removeprefix("torch.")] for x in model._call.tensors]
    meta = {"kind": _KIND, "architecture": dict(architecture), "mask": info, "example": example}
    state = {_STATE + name: value for name, value in model.state_dict().items()}
    save_tensors(Path(path), {_MASK: bits, **state}, meta)


def load_ticket(path: str | Path, build: Callable[[dict[str, Any]], nn.Module]) -> Shrunk:
    """The shrunk network of a file written by `save_ticket`, on the CPU; its mask is `model.mask`.

    build: makes the dense network from the saved architecture; its weights do not matter.
    Errors: DamagedError when the file is missing, cut off, changed, of another kind, or does not fit that network.
    """
    tensors, meta = load_tensors(Path(path))
    if meta.get("kind") != _KIND:
        raise DamagedError(f"{path}: not an {_KIND} but {meta.get('kind')!r}. Give the file of a ticket.")
    try:
        mask = ChannelMask.unpack(tensors.pop(_MASK), meta["mask"])
        example = tuple(_blank(*item) for item in meta["example"])
        state = {name.removeprefix(_STATE): value for name, value in tensors.items()}
        floats = [value.dtype for value in state.values() if value.is_floating_point()]
        model = compact(build(meta["architecture"]), mask, example).to(floats[0])
        model.load_state_dict(state)
    except (EbsimError, RuntimeError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(
            f"{path}: does not fit the network that was built for it ({error}). Build the architecture that the file "
            f"names: {meta.get('architecture')}."
        ) from error
    return model


def _blank(shape: list[int], kind: str) -> Tensor:
    """A tensor of zeros to trace with; ValueError for what no input of a network is."""
    dtype = getattr(torch, str(kind), None)
    sizes = all(type(size) is int and size >= 0 for size in shape)
    if not isinstance(dtype, torch.dtype) or not sizes or math.prod(shape) > MAX_EXAMPLE:
        raise ValueError(f"an example of {kind!r} {shape!r}")
    return torch.zeros(shape, dtype=dtype)
