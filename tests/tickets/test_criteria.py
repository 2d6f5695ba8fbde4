"""Ranking criteria and the wiring they need, against loops and finite differences."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from ebsim import models, tickets
from ebsim.errors import ConfigError
from ebsim.pipeline.validation import load
from tests.training.toy import ToyData, toy_network


def look(images: int = 12, seed: int = 0) -> tickets.ScoringInputs:
    data = ToyData()
    return tickets.ScoringInputs(lambda: (data.x[:images], data.y[:images]), seed)


def score(name: str, model: nn.Module, **options: int) -> torch.Tensor:
    return tickets.CRITERIA[name].score(model, look(**options))


def test_an_experiment_is_checked_against_the_registry(monkeypatch) -> None:
    card = Path(__file__).parents[2] / "experiments" / "preresnet101.toml"
    with pytest.raises(ConfigError, match=r'prune.criterion = "tailor".*Did you mean taylor'):
        load(card, {"prune.criterion": "tailor"})
    monkeypatch.setitem(tickets.CRITERIA, "tailor", tickets.CRITERIA["taylor"])
    assert load(card, {"prune.criterion": "tailor"}).prune.criterion == "tailor"


def test_gamma_is_what_was_always_stored() -> None:
    model = toy_network()
    assert torch.equal(score("gamma", model), tickets.gammas(model))


def test_magnitude_by_loops() -> None:
    model = toy_network()
    expected = []
    for layer in (model[0], model[3]):
        norms = [math.sqrt(sum(float(w) ** 2 for w in f.flatten())) for f in layer.weight.detach()]
        mean = math.sqrt(sum(n * n for n in norms) / len(norms))
        expected += [n / mean for n in norms]
    assert score("magnitude", model).tolist() == pytest.approx(expected, rel=1e-5)


def test_magnitude_of_a_residual_stream_adds_what_makes_it() -> None:
    model = models.build("preresnet", classes=3, input_shape=(3, 8, 8), depth=20, seed=0)
    found = dict(
        zip(
            tickets.bn_layers(model),
            score("magnitude", model).split(list(tickets.bn_layers(model).values())),
            strict=True,
        )
    )
    makers = ["layer1.0.conv3", "layer1.0.downsample"]
    squares = sum(model.get_submodule(name).weight.detach().flatten(1).square().sum(1) for name in makers)
    assert isinstance(squares, torch.Tensor)
    torch.testing.assert_close(found["layer1.1.bn1"], (squares / squares.mean()).sqrt())


def test_taylor_is_the_slope_of_the_loss_towards_the_mask() -> None:
    """Finite differences: close the gate (scale and shift) of one channel a little."""
    model = toy_network().double()
    with torch.no_grad():
        for index in (1, 4):
            model[index].bias.uniform_(-0.2, 0.2, generator=torch.Generator().manual_seed(index))
            model[index].running_mean.uniform_(-0.2, 0.2, generator=torch.Generator().manual_seed(index))
    data = ToyData()
    images, labels = data.x[:12].double(), data.y[:12]
    found = tickets.CRITERIA["taylor"].score(model, tickets.ScoringInputs(lambda: (images, labels)))
    model.eval()
    expected, step = [], 1e-6
    for index in (1, 4):
        bn = model[index]
        for channel in range(bn.num_features):
            start = bn.weight.detach().clone(), bn.bias.detach().clone()
            losses = []
            for sign in (1, -1):
                with torch.no_grad():
                    for parameter, value in zip((bn.weight, bn.bias), start, strict=True):
                        parameter.copy_(value)
                        parameter[channel] *= 1 - sign * step
                    losses.append(float(functional.cross_entropy(model(images), labels)))
            with torch.no_grad():
                bn.weight.copy_(start[0])
                bn.bias.copy_(start[1])
            expected.append(abs(losses[0] - losses[1]) / (2 * step))
    assert found.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-8)


def test_looking_changes_nothing() -> None:
    model = toy_network().train()
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for name in tickets.CRITERIA:
        score(name, model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model[1].training and not model[2].training


def test_random_is_new_at_every_look_and_reproducible() -> None:
    model = toy_network()
    assert torch.equal(score("random", model, seed=5), score("random", model, seed=5))
    assert not torch.equal(score("random", model, seed=5), score("random", model, seed=6))


def test_the_detector_works_with_any_scores() -> None:
    """Constant scores settle as soon as the window is full; fresh random ones never do."""
    model = toy_network()
    layers = tickets.bn_layers(model)
    steady = torch.stack([score("magnitude", model)] * 12)
    noisy = torch.stack([score("random", model, seed=epoch) for epoch in range(12)])
    assert tickets.emergence(steady, layers, 0.5).epoch == 6
    assert tickets.emergence(noisy, layers, 0.5).epoch is None


def test_wiring_of_a_plain_network() -> None:
    model = models.build("vgg", classes=3, input_shape=(3, 8, 8), depth=11, seed=0)
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert tickets.producers(model) == {n: (c,) for n, c in zip(norms, convolutions, strict=True)}
    assert tickets.reader(model) == dict(zip(norms, [*convolutions[1:], "classifier"], strict=True))


def test_wiring_of_residual_networks() -> None:
    pre = models.build("preresnet", classes=3, input_shape=(3, 8, 8), depth=11, seed=0)
    assert tickets.producers(pre)["bn"] == ("layer3.0.conv3", "layer3.0.downsample")
    assert tickets.producers(pre)["layer2.0.bn2"] == ("layer2.0.conv1",)
    blocks = [f"layer{stage}.0" for stage in (1, 2, 3)]
    inner = {f"{b}.bn{n + 1}": f"{b}.conv{n}" for b in blocks for n in (1, 2)}
    assert tickets.filters(pre) == inner  # not the stem, which a projection reads besides
    assert tickets.reader(pre)["layer2.0.bn1"] == "layer2.0.conv1"
    assert tickets.reader(pre)["bn"] == "fc"
    res = models.build("resnet", classes=3, input_shape=(3, 8, 8), depth=18, seed=0)
    assert tickets.reader(res)["layer1.0.bn1"] == "layer1.0.conv2"
    assert tickets.reader(res)["layer1.0.bn2"] is None  # goes into the residual sum
    assert tickets.producers(res)["layer2.0.downsample.1"] == ("layer2.0.downsample.0",)
    assert len(tickets.filters(res)) == 20


class Joined(nn.Module):
    """A BatchNorm over a concatenation: no single convolution makes its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(torch.cat([self.a(x), self.b(x)], 1))


def test_magnitude_says_when_it_cannot_rank() -> None:
    with pytest.raises(ConfigError, match='channels of bn one by one; rank by "gamma"'):
        score("magnitude", Joined())
