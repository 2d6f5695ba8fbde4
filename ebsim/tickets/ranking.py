"""Ranks channels by score and prunes the smallest: channel masks from gammas or from any other scores.

All scales gamma of a network, concatenated in module order, are ranked by |gamma|; the smallest
round(p*n) are pruned (Network Slimming, Liu et al. 2017; Early-Bird Tickets, You et al. 2020).

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
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ebsim.errors import ConfigError, DivergedError
from ebsim.tickets.batchnorms import named_gammas
from ebsim.tickets.mask import ChannelMask, check_layers, frozen_layers


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
    values, layers = _as_array(scores), frozen_layers(layers)  # one frozen table for all masks
    check_layers(values.shape, layers)
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


def match_layers(layers: Iterable[str], patterns: str | Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """The layers that a name or pattern ("stem.*") fits, in their order, and the patterns that fit none."""
    names, wanted = list(layers), [patterns] if isinstance(patterns, str) else list(patterns)
    fits = {pattern: {name for name in names if fnmatch.fnmatchcase(name, pattern)} for pattern in wanted}
    matched = set().union(*fits.values())
    return tuple(name for name in names if name in matched), [pattern for pattern in wanted if not fits[pattern]]


def _without_ignored(
    values: np.ndarray,
    layers: Mapping[str, int],
    ratios: Sequence[float],
    min_channels: int,
    ties: str,
    ignore: str | Sequence[str],
) -> list[ChannelMask]:
    """Masks of the layers that are ranked, with everything kept in those that are not."""
    ignored, unmatched = match_layers(layers, ignore)
    for pattern in unmatched:
        raise ConfigError(
            f"ignore: no BatchNorm layer is named {pattern!r}; there are {', '.join(list(layers)[:5])}, ..."
        )
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


def _as_array(scores: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(scores, Tensor):
        scores = scores.detach().to("cpu", torch.promote_types(scores.dtype, torch.float32)).numpy()
    return scores


def _nan_layers(values: np.ndarray, layers: Mapping[str, int]) -> str:
    owner = np.repeat(np.array(list(layers), dtype=object), list(layers.values()))
    bad = list(dict.fromkeys(owner[np.isnan(values)]))
    return ", ".join(bad[:5]) + (f" and {len(bad) - 5} more layers" if len(bad) > 5 else "")
