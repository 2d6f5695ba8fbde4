"""Replacing a network by its ticket inside a running training: the network, and the optimizer that holds it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import ebsim
from ebsim.adapters import Watch, shrink_in_place
from ebsim.errors import ConfigError

EXAMPLE = torch.zeros(2, 3, 8, 8)


class Owner(nn.Module):
    """What a framework trains: a network and a head of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ebsim.models.build("preresnet", depth=11, classes=6, input_shape=(3, 8, 8), seed=0)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.net(x))


def batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(number)
    return torch.randn(16, 3, 8, 8, generator=made), torch.randint(4, (16,), generator=made)


def step(model: nn.Module, optimizers: list[torch.optim.Optimizer], number: int) -> None:
    x, y = batch(number)
    for optimizer in optimizers:
        optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    for optimizer in optimizers:
        optimizer.step()


def test_training_goes_on_as_with_fresh_momentum_for_the_ticket_alone() -> None:
    """Oracle: the ticket made outside, with an optimizer of its own, beside a head that keeps its momentum."""
    torch.manual_seed(0)
    owner = Owner()
    groups = [{"params": owner.net.parameters(), "weight_decay": 1e-3}, {"params": owner.head.parameters()}]
    sgd = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    for number in range(3):
        step(owner, [sgd], number)
    mask = ebsim.channel_mask(owner.net, 0.5)

    other = copy.deepcopy(owner)
    head = torch.optim.SGD(other.head.parameters(), lr=0.1, momentum=0.9)
    for mine, theirs in zip(other.head.parameters(), owner.head.parameters(), strict=True):
        head.state[mine]["momentum_buffer"] = sgd.state[theirs]["momentum_buffer"].clone()
    other.net = ebsim.compact(other.net, mask, EXAMPLE)
    fresh = torch.optim.SGD(other.net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)

    ticket = shrink_in_place(owner, "net", mask, EXAMPLE, [sgd])
    assert owner.net is ticket
    assert sum(p.numel() for p in ticket.parameters()) < sum(p.numel() for p in Owner().net.parameters())
    for number in range(3, 6):
        step(owner, [sgd], number)
        step(other, [fresh, head], number)
    for name, tensor in other.state_dict().items():
        assert torch.equal(owner.state_dict()[name], tensor), name


def test_the_optimizer_holds_exactly_the_parameters_that_are_left() -> None:
    owner = Owner()
    adam = torch.optim.AdamW([{"params": owner.head.parameters()}, {"params": owner.net.parameters()}])
    step(owner, [adam], 0)
    shrink_in_place(owner, "net", ebsim.channel_mask(owner.net, 0.7), EXAMPLE, [adam])
    held = {id(p) for group in adam.param_groups for p in group["params"]}
    assert held == {id(p) for p in owner.parameters()}
    assert {id(p) for p in adam.state} == {id(p) for p in owner.head.parameters()}


def test_watching_alone_changes_nothing_and_says_when() -> None:
    owner = Owner()
    before = {name: tensor.clone() for name, tensor in owner.state_dict().items()}
    watch = Watch(ebsim.EarlyBird(ratio=0.5, window=2), "net", EXAMPLE, shrink=False)
    assert [watch.after_epoch(owner, []) for _ in range(5)] == [False, False, True, False, False]
    assert watch.log == {"early_bird/emerged": 1.0, "early_bird/mask_distance": 0.0}
    assert all(torch.equal(tensor, owner.state_dict()[name]) for name, tensor in before.items())


def test_what_cannot_be_replaced_is_refused_by_name() -> None:
    owner = Owner()
    mask = ebsim.channel_mask(owner.net, 0.5)
    with pytest.raises(ConfigError, match="Owner has no module 'network'"):
        shrink_in_place(owner, "network", mask, EXAMPLE)
    owner.twin = owner.net.get_submodule(
        next(name for name, m in owner.net.named_modules() if isinstance(m, nn.Conv2d))
    )
    with pytest.raises(ConfigError, match=r"net shares the parameter twin.weight with another module"):
        shrink_in_place(owner, "net", mask, EXAMPLE)
