"""Replaces a network by its ticket inside another framework's training loop, optimizers included.

The optimizer objects stay the ones that the loop and its learning-rate schedulers know: parameters of the dense
network are exchanged for those of the ticket under the same names, group by group, and their momentum is dropped, as
for a fresh optimizer. Learning rates and schedules go on as they were.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ebsim.errors import ConfigError
from ebsim.tickets import ChannelMask, EarlyBird, compact


def shrink_in_place(
    owner: nn.Module, attribute: str, mask: ChannelMask, example: Tensor, optimizers: Iterable[Any] = ()
) -> nn.Module:
    """Replace `owner.<attribute>` (dotted) by its ticket, also in the optimizers; returns the ticket.

    example: one batch of inputs [N, ...] to trace with. optimizers: `torch.optim.Optimizer`s, or wrappers that keep
    theirs as `.optimizer`. Raises `CompactError` for a network that does not trace, `ConfigError` for an attribute that
    is no module, or a parameter that the network shares with another part of `owner`.
    """
    parent, _, name = attribute.rpartition(".")
    try:
        home = owner.get_submodule(parent)
        dense = home.get_submodule(name)
    except AttributeError as error:
        raise ConfigError(f"{type(owner).__name__} has no module {attribute!r}: {error}") from None
    _refuse_shared(owner, dense, attribute)
    before = {id(parameter): key for key, parameter in dense.named_parameters()}
    device = next(dense.parameters()).device
    ticket = compact(dense, mask, example.to(device)).train(dense.training)
    after = dict(ticket.named_parameters())
    setattr(home, name, ticket)
    for optimizer in optimizers:
        _exchange(getattr(optimizer, "optimizer", optimizer), before, after)
    return ticket


def _refuse_shared(owner: nn.Module, dense: nn.Module, attribute: str) -> None:
    inside = {id(parameter) for parameter in dense.parameters()}
    for key, parameter in owner.named_parameters(remove_duplicate=False):
        if id(parameter) in inside and not key.startswith(f"{attribute}."):
            raise ConfigError(
                f"{attribute} shares the parameter {key} with another module; it cannot be replaced alone"
            )


def _exchange(optimizer: torch.optim.Optimizer, before: dict[int, str], after: dict[str, nn.Parameter]) -> None:
    """Put the ticket's parameters where the dense network's were; what the ticket no longer has is dropped."""
    for group in optimizer.param_groups:
        kept = []
        for parameter in group["params"]:
            key = before.get(id(parameter))
            if key is None:
                kept.append(parameter)
                continue
            optimizer.state.pop(parameter, None)
            if key in after:
                new = after[key]
                new.requires_grad_(parameter.requires_grad)
                kept.append(new)
        group["params"] = kept


@dataclass
class Watch:
    """Watches a network for its Early-Bird ticket after every epoch, and replaces it by the ticket once it has emerged.

    eb: the detector. attribute: where the network stands in the object that the framework trains. example: a batch of
    inputs [N, ...]. shrink: replace it; False only watches. ticket and epoch of `eb` tell the outcome.
    """

    eb: EarlyBird
    attribute: str
    example: Tensor
    shrink: bool = True
    log: dict[str, float] = field(default_factory=dict)
    """The newest mask distance, and whether the ticket has emerged, under the names that loggers get."""

    def after_epoch(self, owner: nn.Module, optimizers: Iterable[Any]) -> bool:
        """True in the one epoch in which the ticket emerges. Refuses a training over several processes."""
        if self.eb.ticket is not None:
            return False
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            raise ConfigError("the Early-Bird callback works in one process; masks are not exchanged between ranks")
        emerged = self.eb.update(owner.get_submodule(self.attribute))
        self.log = {"early_bird/emerged": float(emerged)}
        if self.eb.distances:
            self.log["early_bird/mask_distance"] = self.eb.distances[-1]
        if emerged and self.shrink:
            assert self.eb.ticket is not None
            shrink_in_place(owner, self.attribute, self.eb.ticket, self.example, optimizers)
        return emerged
