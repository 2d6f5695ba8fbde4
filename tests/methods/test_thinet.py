"""ThiNet's greedy choice and least squares against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from ebsim.methods import thinet


def brute_force(x: np.ndarray, keep: int) -> list[int]:
    """Grow the removed set by the channel that leaves the smallest squared sum, adding everything up each time."""
    removed: list[int] = []
    while x.shape[1] - len(removed) > keep:
        options = [j for j in range(x.shape[1]) if j not in removed]
        removed.append(min(options, key=lambda j: ((x[:, [*removed, j]].sum(1)) ** 2).sum()))
    return [j for j in range(x.shape[1]) if j not in removed]


@pytest.mark.parametrize("seed", range(8))
def test_the_greedy_choice(seed: int) -> None:
    x = torch.randn(40, 9, generator=torch.Generator().manual_seed(seed)).double()
    for keep in (1, 4, 8, 9):
        assert thinet.choose(x, keep).tolist() == brute_force(x.numpy(), keep)


def test_channels_that_cancel_are_removed_together() -> None:
    x = torch.randn(50, 4).double()
    x[:, 2] = -x[:, 0]
    x[:, 1] *= 10
    x[:, 3] *= 10
    assert thinet.choose(x, 2).tolist() == [1, 3]


@pytest.mark.parametrize("stride", [1, 2])
def test_contributions_add_up_to_outputs_of_the_next_layer(stride: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 5, 3, stride=stride, padding=1, bias=False)
    inputs = torch.randn(7, 4, 6, 6)
    found = thinet.contributions(layer, inputs, 4, 6, torch.Generator().manual_seed(1))
    assert found.shape == (42, 4)
    outputs = functional.conv2d(inputs, layer.weight.detach(), stride=stride, padding=1)
    for row, total in enumerate(found.sum(1)):
        assert float((outputs[row % 7] - total).abs().min()) < 1e-5
    alone = functional.conv2d(inputs[:, 2:3], layer.weight.detach()[:, 2:3], stride=stride, padding=1)
    for row, part in enumerate(found[:, 2]):
        assert float((alone[row % 7] - part).abs().min()) < 1e-5


def test_contributions_of_a_linear_layer_with_several_pixels_per_channel() -> None:
    torch.manual_seed(0)
    layer, inputs = nn.Linear(12, 3), torch.randn(5, 12)
    found = thinet.contributions(layer, inputs, 4, 1, torch.Generator().manual_seed(1))
    outputs = inputs @ layer.weight.detach().T
    assert all(float((outputs[row] - total).abs().min()) < 1e-5 for row, total in enumerate(found.sum(1)))


def network() -> nn.Sequential:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.4, 0.6)
            nn.init.uniform_(module.bias, 0.5, 0.7)
    return model


def test_a_copied_channel_costs_nothing() -> None:
    """Of two equal, weak channels one goes, and the other's readers are doubled: the network computes what it did."""
    model, images = network(), torch.randn(30, 3, 6, 6)
    with torch.no_grad():
        for tensor in (model[0].weight, model[1].weight, model[1].bias):
            tensor[5] = tensor[2]
        model[3].weight[:, 2] *= 0.1
        model[3].weight[:, 5] = model[3].weight[:, 2]
        model[8].weight[:, 7] = 0  # the second layer has a channel that nobody reads
    model.eval()
    before = model(images).detach()
    mask, rescaling = thinet.select(model, images, 1 / 7, 10, seed=0)
    assert mask.kept() == {"1": 5, "4": 7}
    assert mask["4"].tolist() == [True] * 7 + [False]
    assert sum(mask["1"][[2, 5]].tolist()) == 1
    factor = rescaling.factors["3"]
    assert float(factor.max()) == pytest.approx(2, abs=1e-3)
    torch.testing.assert_close(model(images), before, rtol=1e-3, atol=1e-4)


def test_the_factors_are_the_least_squares_solution_and_help() -> None:
    images = torch.randn(40, 3, 6, 6)
    model, plain = network().eval(), network().eval()
    read = functional.relu(plain[1](plain[0](images))).detach()
    x = thinet.contributions(plain[3], read, 6, 10, torch.Generator().manual_seed(7)).numpy().astype(float)
    _, rescaling = thinet.select(model, images, 0.5, 10, seed=7)
    factor = rescaling.factors["3"].numpy()
    kept = np.flatnonzero(factor)
    expected = np.linalg.lstsq(x[:, kept], x.sum(1), rcond=None)[0]
    np.testing.assert_allclose(factor[kept], expected, rtol=1e-4)
    lost = ((x[:, kept].sum(1) - x.sum(1)) ** 2).sum()
    assert ((x @ factor - x.sum(1)) ** 2).sum() < lost


def test_rescaling_a_linear_layer_reaches_every_pixel_of_a_channel() -> None:
    layer = nn.Sequential(nn.Linear(6, 2))
    before = layer[0].weight.detach().clone()
    change = thinet.Rescaling({"0": torch.tensor([2.0, 0.0, 1.0])})
    change.apply(layer)
    expected = before * torch.tensor([2.0, 2.0, 0.0, 0.0, 1.0, 1.0])
    assert torch.equal(layer[0].weight.detach(), expected)
    assert change.digest == thinet.Rescaling({"0": torch.tensor([2.0, 0.0, 1.0])}).digest
    assert change.digest != thinet.Rescaling({"0": torch.tensor([2.0, 0.0, 1.5])}).digest
