"""`compact`: shrinks a network to a ticket that computes exactly what the masked network computes.

In the masked network a pruned BatchNorm channel has gamma = beta = 0, so it outputs zero in training and evaluation.
Dead-channel elimination on the traced graph removes what such zeros make superfluous, as a compiler removes dead
code: channels that are always zero, channels that are never read, and the weights between them. It is exact for every
network that traces, whatever its wiring, because it follows operations, not architectures (docs/compact.md).
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from ebsim.tickets.mask import ChannelMask, check_network
from ebsim.tickets.shrinking.plain_copy import has_precision
from ebsim.tickets.shrinking.shrinker import Shrinker
from ebsim.tickets.shrinking.shrunk import Shrunk

__all__ = ["Shrinker", "Shrunk", "compact"]


def compact(
    model: nn.Module,
    mask: ChannelMask,
    example_input: Any,
    *,
    verify: bool = True,
    keep_where_dearer: bool = False,
) -> Shrunk:
    """A smaller network that computes what `model` computes with the mask applied, in evaluation and training mode.

    example_input: a tensor [N, ...], a tuple of the arguments as forward takes them, or a mapping of named ones. The
    model is left as it is; a wrapper (DataParallel, DDP, torch.compile, AveragedModel) is looked through. Weights,
    BatchNorm statistics, devices and modes carry over; an optimizer's momentum does not. Dropout draws the random
    numbers that it draws in the dense network. The result depends on the architecture and the mask, not on weight
    values. A low precision that was placed on the model's layers is not on those of the result: it is the network that
    `remove` and then `compact` would give, and a warning says to apply the precision to it.

    verify: run the shrunk and the masked network on the example, in float64 and in both modes, and refuse when they
    differ beyond rounding. Costs four forward passes in float64 (two of the dense network); a network on the meta
    device cannot be verified.

    keep_where_dearer: leave BatchNorm layers whole where selecting channels for them costs more, in MACs and moved
    elements, than cutting them saves (at small ratios); their pruned scales and shifts are zero, as in the masked
    network, and `notes` says which they are. The result is the cheapest of several exact forms, uncut among them.

    In another process the same network is rebuilt from the architecture, the mask and a state_dict: `compact` the dense
    network anew (any weights; on the meta device it costs no memory) and `load_state_dict(state, assign=True)`.

    The same network for several masks, or the same mask for several weights: `Shrinker` traces once.

    Errors: ConfigError for a mask of another network; CompactError, with the reason and the cure, when the network
    cannot be shrunk exactly, or a layer would lose every channel. Warns, and lists in `notes`, what the shrunk network
    lacks and where an unknown operation kept all its channels.
    """
    check_network(model, mask)
    result = Shrinker(model, example_input).shrink(model, mask, verify=verify, keep_where_dearer=keep_where_dearer)
    if has_precision(model):
        warnings.warn("the precision placed on the network is not on the shrunk one; apply it to that", stacklevel=2)
    if result._notes:
        warnings.warn("not shrunk everywhere: " + "; ".join(result._notes), stacklevel=2)
    return result
