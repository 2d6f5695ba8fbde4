"""`ChannelMask`: which BatchNorm channels of a dense network are kept, one bit each; its file, and the masked network.

The distance of two masks is the fraction of channels on which they differ (Hamming distance / n). `ranking` makes masks
from scores.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ebsim.errors import ConfigError, DamagedError
from ebsim.files import load_tensors, save_tensors
from ebsim.lazy import attach
from ebsim.tickets.batchnorms import bn_layers, bn_modules

_KIND = "ebsim channel mask"
_MOVED = dict.fromkeys(("channel_mask", "masks_from_gammas", "masks_from_scores"), "ebsim.tickets.ranking")
__getattr__ = attach(__name__, _MOVED)[0]  # their import path until 0.1


@dataclass(frozen=True, eq=False, repr=False)
class ChannelMask:
    """One immutable bit per BatchNorm channel of a dense network, True = kept.

    flags: bool [n], array or tensor, all layers concatenated in the order of `layers`; kept as a
    read-only array. layers: name -> channel count. kept_floor: layers where `min_channels` brought
    channels back. ignored: layers that were left out of the ranking and keep everything.
    """

    flags: np.ndarray
    layers: Mapping[str, int]
    kept_floor: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        flags = np.array(self.flags, dtype=bool)  # a copy, so that no other code holds it
        flags.flags.writeable = False
        layers = frozen_layers(self.layers)
        check_layers(flags.shape, layers)
        object.__setattr__(self, "flags", flags)
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "kept_floor", tuple(self.kept_floor))
        object.__setattr__(self, "ignored", tuple(self.ignored))

    @cached_property
    def _slices(self) -> dict[str, slice]:
        ends = accumulate(self.layers.values())
        return {k: slice(end - v, end) for (k, v), end in zip(self.layers.items(), ends, strict=True)}

    @property
    def bits(self) -> Tensor:
        """bool [n], a copy; True = kept."""
        return torch.from_numpy(self.flags.copy())

    def __getitem__(self, name: str) -> Tensor:
        """bool [channels of the layer], a copy."""
        if name not in self._slices:
            raise KeyError(f"no BatchNorm layer {name!r} in this mask")
        return torch.from_numpy(self.flags[self._slices[name]].copy())

    def __len__(self) -> int:
        return self.flags.size

    @property
    def ratio(self) -> float:
        """The fraction of channels that really is pruned."""
        return 1 - np.count_nonzero(self.flags) / self.flags.size

    def kept(self) -> dict[str, int]:
        """Kept channels per layer."""
        return {name: int(np.count_nonzero(self.flags[s])) for name, s in self._slices.items()}

    def distance(self, other: ChannelMask) -> float:
        """Hamming distance / number of channels, in [0, 1]. ConfigError for masks of two different
        networks."""
        if self.layers != other.layers:
            raise ConfigError(
                f"masks of different networks cannot be compared: {describe_layers(self.layers)} against "
                f"{describe_layers(other.layers)}. Draw both from the same architecture."
            )
        return int(np.count_nonzero(self.flags != other.flags)) / self.flags.size

    @property
    def digest(self) -> str:
        """sha256 (hex) of the layer names, sizes and bits."""
        h = hashlib.sha256(json.dumps(list(self.layers.items())).encode())
        h.update(np.packbits(self.flags).tobytes())
        return h.hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ChannelMask):
            return NotImplemented
        same = list(self.layers.items()) == list(other.layers.items())
        return same and bool(np.array_equal(self.flags, other.flags))

    def __hash__(self) -> int:
        return hash(self.digest)

    def __deepcopy__(self, memo: dict[int, object]) -> ChannelMask:
        return self  # immutable, and a mappingproxy cannot be copied

    def __reduce__(self) -> Any:
        return type(self), (self.flags, dict(self.layers), self.kept_floor, self.ignored)

    def __repr__(self) -> str:
        without = f", {len(self.ignored)} layers ignored" if self.ignored else ""
        return f"ChannelMask({describe_layers(self.layers)}, {self.ratio:.1%} pruned{without}, {self.digest[:8]})"

    def pack(self) -> tuple[Tensor, dict[str, Any]]:
        """One bit per channel (uint8 [n / 8, rounded up]) and the plain JSON that goes with them."""
        packed = torch.from_numpy(np.packbits(self.flags))
        info: dict[str, Any] = {"layers": list(self.layers.items()), "kept_floor": self.kept_floor}
        return packed, {**info, "ignored": self.ignored} if self.ignored else info

    @classmethod
    def unpack(cls, packed: Tensor, info: Mapping[str, Any]) -> ChannelMask:
        """The mask that `pack` took apart; KeyError, TypeError or ValueError for anything else."""
        pairs, floor, ignored = info["layers"], info["kept_floor"], info.get("ignored", [])
        for name, channels in pairs:
            if not isinstance(name, str) or type(channels) is not int or not 0 < channels <= 8 * packed.numel():
                raise ValueError(f"layer {name!r} has {channels!r} channels")
        for names in (floor, ignored):
            if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
                raise TypeError(f"names of layers are {names!r}")
        layers = dict(pairs)
        total = sum(layers.values())
        if len(layers) != len(pairs) or packed.dtype != torch.uint8 or packed.shape != (-(-total // 8),):
            raise ValueError(f"{packed.dtype} {list(packed.shape)} are no bits of {total} channels")
        flags = np.unpackbits(packed.numpy(), count=total)
        return cls(flags, layers, tuple(floor), tuple(ignored))

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file."""
        bits, info = self.pack()
        save_tensors(Path(path), {"bits": bits}, {"kind": _KIND, **info})

    @classmethod
    def load(cls, path: str | Path) -> ChannelMask:
        """Read a file written by `save`. DamagedError for a missing, cut-off, changed or foreign file."""
        tensors, info = load_tensors(Path(path))
        if info.get("kind") != _KIND:
            raise DamagedError(f"{path}: not a {_KIND} but {info.get('kind')!r}. Give the file of a mask.")
        try:
            return cls.unpack(tensors["bits"], info)
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise DamagedError(f"{path}: not a {_KIND} ({error}).") from error


def apply_mask(model: nn.Module, mask: ChannelMask) -> None:
    """Set gamma and beta of every pruned channel to zero, in place: the masked network."""
    check_network(model, mask)
    with torch.no_grad():
        for name, bn in bn_modules(model):
            pruned = ~mask[name].to(bn.weight.device)
            bn.weight.masked_fill_(pruned, 0)
            bn.bias.masked_fill_(pruned, 0)


def check_network(model: nn.Module, mask: ChannelMask) -> None:
    """ConfigError unless the mask was drawn from a network with these BatchNorm layers, in this
    order."""
    own = bn_layers(model)
    if list(own.items()) != list(mask.layers.items()):
        raise ConfigError(
            f"this mask belongs to another network: it has {describe_layers(mask.layers)}, "
            f"the network {describe_layers(own)}. Draw it from this architecture."
        )


def frozen_layers(layers: Mapping[str, int]) -> MappingProxyType[str, int]:
    """A read-only copy; one that is read-only already is ours."""
    if isinstance(layers, MappingProxyType):
        return layers
    return MappingProxyType({str(name): int(channels) for name, channels in layers.items()})


def check_layers(shape: tuple[int, ...], layers: Mapping[str, int]) -> None:
    if shape != (sum(layers.values()),) or not layers or min(layers.values()) < 1:
        raise ConfigError(f"a vector of shape {list(shape)} does not fit {describe_layers(layers)}")


def describe_layers(layers: Mapping[str, int]) -> str:
    return f"{len(layers)} BatchNorm layers with {sum(layers.values())} channels"
