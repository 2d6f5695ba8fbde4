"""Channel masks: which BatchNorm channels of a dense network are kept.

All scales gamma of a network, concatenated in module order, are ranked by |gamma|; the smallest
round(p*n) are pruned (Network Slimming, Liu et al. 2017; Early-Bird Tickets, You et al. 2020). The
distance of two masks is the fraction of channels on which they differ (Hamming distance / n).

Choices, all deterministic:
- round is Python's (halves go to the even count);
- of equal |gamma| the channel that comes first in the network is pruned first;
- layers named in `ignore` keep all channels and are not ranked; the ratio is of the others' channels;
- a layer that would keep fewer than `min_channels` gets its largest ones back (of equal ones the
  later). Nothing else is pruned in their place, so the pruned count then falls below round(p*n);
  `kept_floor` names those layers.

The authors' published code thresholds instead: keep |gamma| > sorted(|gamma|)[int(n*p)]. That
prunes every channel tied with the threshold: one more than asked for with distinct scales, and all
of them in an untrained network. `masks_from_scores(..., ties="threshold")` reproduces it.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ebsim.errors import ConfigError, DamagedError, DivergedError
from ebsim.files import load_tensors, save_tensors
from ebsim.tickets.wrappers import bare

_KIND = "ebsim channel mask"


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
        flags = np.array(self.flags, dtype=bool)  # a copy, so that nobody else holds it
        flags.flags.writeable = False
        layers = _frozen(self.layers)
        _check_layers(flags.shape, layers)
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
                f"masks of different networks cannot be compared: {_describe(self.layers)} against "
                f"{_describe(other.layers)}. Draw both from the same architecture."
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
        return f"ChannelMask({_describe(self.layers)}, {self.ratio:.1%} pruned{without}, {self.digest[:8]})"

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


def channel_mask(
    model: nn.Module, ratio: float, *, min_channels: int = 1, ignore: str | Sequence[str] = ()
) -> ChannelMask:
    """The mask that prunes round(ratio*n) channels of `model`, smallest |gamma| first.

    A wrapper around the network (DataParallel, DDP, torch.compile, AveragedModel) is looked through: layers have the
    names that they have in the network itself. ignore: names of layers, or patterns as "stem.*", that keep all their
    channels; n counts the channels of the others.

    Errors: ConfigError for a ratio outside [0, 1), a network without BatchNorm or a pattern that fits no layer;
    DivergedError for a NaN scale.
    """
    return masks_from_gammas(*named_gammas(model), ratio, min_channels, ignore=ignore)


def masks_from_gammas(
    gammas: Tensor,
    layers: Mapping[str, int],
    ratio: float,
    min_channels: int = 1,
    *,
    ignore: str | Sequence[str] = (),
) -> ChannelMask:
    """As `channel_mask`, from a flat vector of scales [n] (signed or not) and name -> channels."""
    return masks_from_scores(gammas.abs(), layers, [ratio], min_channels, ignore=ignore)[0]


def masks_from_scores(
    scores: Tensor | np.ndarray,
    layers: Mapping[str, int],
    ratios: Sequence[float],
    min_channels: int = 1,
    *,
    ties: str = "order",
    ignore: str | Sequence[str] = (),
) -> list[ChannelMask]:
    """One mask per ratio from any score vector [n] (smallest pruned first, sign counts), with one
    sort for all.

    ties: "order" prunes exactly round(p*n); "threshold" is the authors' rule (see the module's
    text). ignore: as for `channel_mask`.
    """
    values, layers = _as_array(scores), _frozen(layers)  # one frozen table for all masks
    _check_layers(values.shape, layers)
    if ignore:
        return _without_ignored(values, layers, ratios, min_channels, ties, ignore)
    if np.isnan(values).any():
        raise DivergedError(f"NaN among the scores of {_nan_layers(values, layers)}: the training has diverged.")
    if min_channels < 0:
        raise ConfigError(f"min_channels must not be negative, not {min_channels}")
    prune = _TIES.get(ties)
    if prune is None:
        raise ConfigError(f"ties must be one of {', '.join(_TIES)}, not {ties!r}")
    ranked = np.sort(values)
    masks = []
    for ratio in ratios:
        if not 0 <= ratio < 1:
            raise ConfigError(f"the prune ratio must be at least 0 and below 1, not {ratio}")
        keep = ~prune(values, ranked, ratio)
        floor = _raise_to_floor(keep, values, layers, min_channels)
        masks.append(ChannelMask(keep, layers, floor))
    return masks


def _without_ignored(
    values: np.ndarray,
    layers: Mapping[str, int],
    ratios: Sequence[float],
    min_channels: int,
    ties: str,
    ignore: str | Sequence[str],
) -> list[ChannelMask]:
    """Masks of the layers that are ranked, with everything kept in those that are not."""
    patterns = [ignore] if isinstance(ignore, str) else list(ignore)
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in layers):
            raise ConfigError(
                f"ignore: no BatchNorm layer is named {pattern!r}; there are {', '.join(list(layers)[:5])}, ..."
            )
    ignored = tuple(n for n in layers if any(fnmatch.fnmatchcase(n, pattern) for pattern in patterns))
    ranked = {n: count for n, count in layers.items() if n not in ignored}
    if not ranked:
        raise ConfigError("ignore: no layer is left to prune")
    open_ = np.repeat([n in ranked for n in layers], list(layers.values()))
    masks = []
    for mask in masks_from_scores(values[open_], ranked, ratios, min_channels, ties=ties):
        flags = np.ones(values.shape, bool)
        flags[open_] = mask.flags
        masks.append(ChannelMask(flags, layers, mask.kept_floor, ignored))
    return masks


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
            f"this mask belongs to another network: it has {_describe(mask.layers)}, "
            f"the network {_describe(own)}. Draw it from this architecture."
        )


def _prune_exactly(values: np.ndarray, ranked: np.ndarray, ratio: float) -> np.ndarray:
    count = round(ratio * values.size)
    if count == 0:
        return np.zeros(values.shape, bool)
    threshold = ranked[count - 1]
    if count == values.size or ranked[count] > threshold:  # no tie across the cut
        return values <= threshold
    pruned = values < threshold
    tied = np.flatnonzero(values == threshold)
    pruned[tied[: count - np.count_nonzero(pruned)]] = True
    return pruned


def _prune_by_threshold(values: np.ndarray, ranked: np.ndarray, ratio: float) -> np.ndarray:
    return values <= ranked[int(values.size * ratio)]


_TIES = {"order": _prune_exactly, "threshold": _prune_by_threshold}


def _raise_to_floor(keep: np.ndarray, values: np.ndarray, layers: Mapping[str, int], least: int) -> tuple[str, ...]:
    """Give every layer its best `least` channels back, in place; return the layers where that was
    needed."""
    sizes = np.fromiter(layers.values(), int, len(layers))
    starts = np.cumsum(sizes) - sizes
    names, raised = list(layers), []
    for i in np.flatnonzero(np.add.reduceat(keep, starts, dtype=int) < np.minimum(sizes, least)):
        part = slice(starts[i], starts[i] + sizes[i])
        best = np.argsort(values[part], kind="stable")[-least:]
        keep[part][best] = True
        raised.append(names[i])
    return tuple(raised)


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


def _frozen(layers: Mapping[str, int]) -> MappingProxyType[str, int]:
    """A read-only copy; one that is read-only already is ours."""
    if isinstance(layers, MappingProxyType):
        return layers
    return MappingProxyType({str(name): int(channels) for name, channels in layers.items()})


def _as_array(scores: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(scores, Tensor):
        scores = scores.detach().to("cpu", torch.promote_types(scores.dtype, torch.float32)).numpy()
    return scores


def _check_layers(shape: tuple[int, ...], layers: Mapping[str, int]) -> None:
    if shape != (sum(layers.values()),) or not layers or min(layers.values()) < 1:
        raise ConfigError(f"a vector of shape {list(shape)} does not fit {_describe(layers)}")


def _nan_layers(values: np.ndarray, layers: Mapping[str, int]) -> str:
    owner = np.repeat(np.array(list(layers), dtype=object), list(layers.values()))
    bad = list(dict.fromkeys(owner[np.isnan(values)]))
    return ", ".join(bad[:5]) + (f" and {len(bad) - 5} more layers" if len(bad) > 5 else "")


def _describe(layers: Mapping[str, int]) -> str:
    return f"{len(layers)} BatchNorm layers with {sum(layers.values())} channels"
