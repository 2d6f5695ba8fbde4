"""compact on networks it was not written for: torchvision's, as they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ebsim.errors import ConfigError
from ebsim.tickets import ChannelMask, channel_mask, compact
from ebsim.torchvision_shim import import_torchvision
from tests.oracle.masked import assert_same, randomise

# name -> (image side, options); sides keep more than one value per channel in the last BatchNorm where it matters
QUICK = {
    "mobilenet_v3_small": (64, {}),
    "shufflenet_v2_x0_5": (64, {}),
    "regnet_x_400mf": (48, {}),
    "mnasnet0_5": (64, {}),
}
SLOW = {
    "densenet121": (64, {}),
    "googlenet": (64, {"aux_logits": True, "init_weights": False}),
    "googlenet ": (64, {"aux_logits": False, "init_weights": False}),
    "mobilenet_v2": (64, {}),
    "mobilenet_v3_large": (64, {}),
    "regnet_y_400mf": (48, {}),
    "resnet18": (48, {}),
    "resnet50": (48, {}),
    "wide_resnet50_2": (48, {}),
    "resnext50_32x4d": (48, {}),
    "efficientnet_b0": (64, {}),
    "efficientnet_v2_s": (64, {}),
    "shufflenet_v2_x1_0": (64, {}),
    "vgg16_bn": (32, {}),
    "mnasnet1_0": (64, {}),
    "inception_v3": (107, {"aux_logits": False, "init_weights": False}),
}


def build(name: str, options: dict) -> nn.Module:
    torch.manual_seed(0)
    model = getattr(import_torchvision("torchvision.models"), name.strip())(weights=None, num_classes=7, **options)
    if name.startswith("vgg"):  # the same classifier with 64 hidden units in place of 4096: gigabytes in float64
        model.classifier[0], model.classifier[3] = nn.Linear(512 * 7 * 7, 64), nn.Linear(64, 64)
        model.classifier[6] = nn.Linear(64, 7)
    return model


def macs(model: nn.Module, x: torch.Tensor) -> int:
    """Multiply-accumulates of the convolutions and linear layers, from their real outputs."""
    total = 0

    def count(module: nn.Module, _: object, y: torch.Tensor) -> None:
        nonlocal total
        total += y.numel() * module.weight[0].numel()

    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        model.eval()(x)
    for handle in handles:
        handle.remove()
    return total


def check(name: str, side: int, options: dict, ratio: float) -> None:
    model = randomise(build(name, options))
    x = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    shrunk = assert_same(model, channel_mask(model, ratio), x)
    assert not [note for note in shrunk.notes if "costs more than cutting" not in note]
    parameters = [sum(p.numel() for p in m.parameters()) for m in (shrunk, model)]
    # a channel is gone on both sides of a convolution; classifiers and shared streams shrink less
    assert parameters[0] < (1 - 0.8 * ratio) * parameters[1]
    assert macs(shrunk, x) < (1 - ratio) * macs(model, x)


@pytest.mark.parametrize("name", QUICK)
def test_quick(name):
    check(name, *QUICK[name], 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("name", QUICK | SLOW)
def test_all(name, ratio):
    check(name, *(QUICK | SLOW)[name], ratio)


def test_networks_without_batch_normalization_are_refused():
    for name in ("squeezenet1_1", "convnext_tiny"):
        model = build(name, {})
        with pytest.raises(ConfigError, match="no BatchNorm"):
            channel_mask(model, 0.5)
        with pytest.raises(ConfigError, match="no BatchNorm"):
            compact(model, ChannelMask(torch.ones(3), {"bn": 3}), torch.zeros(1, 3, 64, 64))


def test_batch_normalization_in_front_of_layer_normalization():
    """ConvNeXt behind a stem with BatchNorm: exact, with the stem's channels kept for the LayerNorm to see."""
    model = build("convnext_tiny", {})
    model.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 3, 1), *model.features[:3])
    model.avgpool, model.classifier = nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.Flatten(1), nn.Linear(192, 4))
    randomise(model)
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    shrunk = assert_same(model, channel_mask(model, 0.5), x)
    assert shrunk.get_submodule("features.0").out_channels == 3
