"""Divergence always is a `DivergedError` with epoch, step and the first layer that went bad, whatever step it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from ebsim.errors import DivergedError
from ebsim.training.divergence import first_bad_layer
from tests.training.test_trajectory import TRAIN, equal, trajectory
from tests.training.toy import ToyData, toy_network

BIG = torch.finfo(torch.float32).max


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])


class Explodes(nn.Module):
    """Passes its input on; its output, or only its gradient, is infinite."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.where == "output":
            return x * self.weight * BIG * BIG
        if self.where == "gradient":
            small = (self.weight - self.weight.detach()).clamp(min=0)  # 0, with the derivative of a square root there
            return x + small.sqrt()
        return x * self.weight


@pytest.mark.parametrize("where", ["output", "gradient"])
@pytest.mark.parametrize("place", [1, 3, 6])
def test_the_first_layer_is_named(where: str, place: int) -> None:
    layers = [*toy_network().children()]
    layers.insert(place, Explodes(where))
    model = nn.Sequential(*layers).train()
    x, y = batch()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert first_bad_layer(model, x, lambda z: functional.cross_entropy(z, y)).startswith(f"the {where} of {place}")
    assert equal(before, model.state_dict())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_inputs_weights_and_statistics_are_told_apart() -> None:
    x, _ = batch()
    model = toy_network()
    assert first_bad_layer(model, x * float("nan")) == "the input images"
    with torch.no_grad():
        model[1].running_var[2] = float("inf")  # type: ignore[index]
    assert first_bad_layer(model, x) == "the statistics (1.running_var)"
    with torch.no_grad():
        model[3].weight[0] = float("nan")  # type: ignore[index]
    assert first_bad_layer(model, x) == "the weights (3.weight)"
    assert first_bad_layer(toy_network(), x, lambda z: z.sum() * float("inf")) == "the loss"


@pytest.mark.parametrize("poison", [(1, 0), (3, 1), (5, 2)])
def test_epoch_step_and_layer_are_in_the_message(tmp_path: Path, poison: tuple[int, int]) -> None:
    with pytest.raises(DivergedError, match=f"^epoch {poison[0]}: the input images .* step {poison[1] + 1} of"):
        trajectory(tmp_path, data=ToyData(poison=poison)).extend(8)
    assert trajectory(tmp_path).epoch == poison[0] - 1


@pytest.mark.parametrize("key", ["lr", "weight_decay", "l1"])
@pytest.mark.parametrize("value", [1e30, 1e20])
@pytest.mark.parametrize("eval_every", [1, 100])
def test_whatever_step_it_is_that_breaks(tmp_path: Path, key: str, value: float, eval_every: int) -> None:
    """One step an epoch, so the last update of an epoch is the first that is too large."""
    train = TRAIN.model_copy(update={key: value, "batch_size": 45, "eval_every": eval_every})
    run = trajectory(tmp_path, train=train)
    with pytest.raises(DivergedError, match=r"^epoch \d: .*(step \d|evaluation)"):
        run.extend(8)
    reached = trajectory(tmp_path, train=train)
    assert all(bool(torch.isfinite(value).all()) for value in reached.state_at(reached.epoch).values())
