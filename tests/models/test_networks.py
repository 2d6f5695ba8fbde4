"""Sizes against the published ones, functions against plain functional re-implementations."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ebsim import models

AUTHORS_SELECTION_INDEXES = 4_688 + 256  # their index vectors are Parameters: one per selected channel


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def channels(model: nn.Module) -> int:
    return sum(m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of convolutions and linear layers, seen from outside by hooks."""
    total = 0

    def count(module: nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            total += out.numel() * module.weight[0].numel()

    handles = [m.register_forward_hook(count) for m in model.modules()]
    with torch.inference_mode():
        model.eval()(torch.zeros(1, *shape))
    for handle in handles:
        handle.remove()
    return total


def test_preresnet101_has_the_published_size() -> None:
    model = models.build("preresnet", classes=10, seed=0)
    assert parameters(model) == 1_054_106
    assert parameters(model) + AUTHORS_SELECTION_INDEXES == 1_059_050  # as the authors' model counts
    assert channels(model) == 7_408
    assert round(macs(model, (3, 32, 32)) / 1e6, 2) == 154.06
    assert round(macs(model, (3, 8, 8)) / 1e6, 2) == 9.63


def test_vgg16_has_the_published_size() -> None:
    model = models.build("vgg", classes=100, seed=0)
    assert channels(model) == 4_224
    assert parameters(model) - parameters(model.classifier) == 14_718_912
    assert round(macs(model, (3, 32, 32)) / 1e6, 2) == 313.25


@pytest.mark.parametrize(("depth", "size", "bn"), [(18, 11_689_512, 4_800), (50, 25_557_032, 26_560)])
def test_imagenet_resnets_have_the_published_size(depth: int, size: int, bn: int) -> None:
    model = models.build("resnet", classes=1000, depth=depth, input_shape=(3, 224, 224), seed=0)
    assert (parameters(model), channels(model)) == (size, bn)


def test_resnet18_macs_at_224() -> None:
    model = models.build("resnet", classes=1000, input_shape=(3, 224, 224), seed=0)
    assert round(macs(model, (3, 224, 224)) / 1e6, 2) == 1814.07


@pytest.mark.parametrize(("depth", "convolutions"), [(11, 8), (13, 10), (16, 13), (19, 16)])
def test_vgg_depths_count_their_weight_layers(depth: int, convolutions: int) -> None:
    model = models.build("vgg", classes=10, depth=depth, seed=0)
    found = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(found) == convolutions and all(c.bias is None for c in found)
    assert sum(isinstance(m, nn.MaxPool2d) for m in model.modules()) == 4


@pytest.mark.parametrize(("side", "smallest_map"), [(4, 2), (8, 2), (9, 2), (16, 2), (32, 2), (64, 4)])
def test_vgg_keeps_maps_of_at_least_two_pixels(side: int, smallest_map: int) -> None:
    model = models.build("vgg", classes=10, depth=11, input_shape=(3, side, side), seed=0).eval()
    assert model.features(torch.zeros(1, 3, side, side)).shape[-1] == smallest_map


def randomised(model: nn.Module) -> nn.Module:
    """Non-trivial BatchNorm everywhere, in float64: an untrained one is too forgiving."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
    return model.double().eval()


def bn(x: torch.Tensor, w: dict[str, torch.Tensor], at: str) -> torch.Tensor:
    mean, var = w[f"{at}.running_mean"], w[f"{at}.running_var"]
    scale = w[f"{at}.weight"] / torch.sqrt(var + 1e-5)
    return (x - mean[:, None, None]) * scale[:, None, None] + w[f"{at}.bias"][:, None, None]


def test_preresnet_computes_its_published_function() -> None:
    model = randomised(models.build("preresnet", classes=10, depth=20, seed=1))
    w, x = model.state_dict(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    out = F.conv2d(x, w["conv1.weight"], padding=1)
    for stage in (1, 2, 3):
        for block in (0, 1):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            h = F.conv2d(F.relu(bn(out, w, f"{at}.bn1")), w[f"{at}.conv1.weight"])
            h = F.relu(bn(h, w, f"{at}.bn2"))
            h = F.conv2d(h, w[f"{at}.conv2.weight"], stride=stride, padding=1)
            h = F.conv2d(F.relu(bn(h, w, f"{at}.bn3")), w[f"{at}.conv3.weight"])
            short = f"{at}.downsample.weight"
            out = h + (F.conv2d(out, w[short], stride=stride) if short in w else out)
    out = F.avg_pool2d(F.relu(bn(out, w, "bn")), 4).flatten(1)
    torch.testing.assert_close(model(x), out @ w["fc.weight"].T + w["fc.bias"], rtol=1e-10, atol=1e-10)


def test_vgg_computes_its_published_function() -> None:
    model = randomised(models.build("vgg", classes=10, depth=11, seed=1))
    w, out = model.state_dict(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    x, at = out, 0
    for layer in (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512):
        if layer == "M":
            out, at = F.max_pool2d(out, 2), at + 1
            continue
        out = F.conv2d(out, w[f"features.{at}.weight"], padding=1)
        out, at = F.relu(bn(out, w, f"features.{at + 1}")), at + 3
        assert out.shape[1] == layer
    out = F.avg_pool2d(out, 2).flatten(1)
    expected = out @ w["classifier.weight"].T + w["classifier.bias"]
    torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-10)


def test_small_images_stem_keeps_the_resolution() -> None:
    model = models.build("resnet", classes=10, stem="small_images", seed=0).eval()
    stem = model.maxpool(model.conv1(torch.zeros(1, 3, 32, 32)))
    assert stem.shape == (1, 64, 32, 32)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", ["preresnet", "vgg", "resnet"])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 9, 12)])
def test_every_family_traces_and_learns_at_small_sizes(name: str, shape: tuple[int, ...]) -> None:
    options: dict = {"preresnet": {"depth": 11}, "vgg": {"depth": 11}}.get(name, {"stem": "small_images"})
    model = models.build(name, classes=4, input_shape=shape, seed=0, **options)
    traced = torch.fx.symbolic_trace(model)
    x = torch.randn(3, *shape)
    assert torch.equal(traced.eval()(x), model.eval()(x))
    model.train()(x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_seed_fixes_the_weights_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    first = models.build("preresnet", classes=10, depth=11, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    second = models.build("preresnet", classes=10, depth=11, seed=5).state_dict()
    other = models.build("preresnet", classes=10, depth=11, seed=6).state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


@pytest.mark.parametrize(("name", "gamma"), [("preresnet", 0.5), ("vgg", 0.5), ("resnet", 1.0)])
def test_initial_weights_follow_the_recipe(name: str, gamma: float) -> None:
    shape = (3, 224, 224) if name == "resnet" else (3, 32, 32)
    model = models.build(name, classes=10, input_shape=shape, seed=2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == gamma).all() and (module.bias == 0).all()
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 20_000:
            std = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
            assert abs(module.weight.std().item() / std - 1) < 0.03
            assert abs(module.weight.mean().item()) < 0.02 * std + 1e-4


def test_initialize_refreshes_a_narrower_trained_network() -> None:
    model = nn.Sequential(nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7), nn.Flatten(), nn.Linear(7 * 4, 2))
    model(torch.randn(8, 3, 4, 4)).sum().backward()
    model[0].weight.data.fill_(9.0)
    models.initialize(model, family="vgg", gamma_init=0.25, seed=0)
    assert (model[1].weight == 0.25).all() and (model[1].running_mean == 0).all()
    assert model[0].weight.abs().max() < 9 * math.sqrt(2 / (9 * 7)) and (model[0].bias == 0).all()
    assert (model[3].bias == 0).all() and 0.005 < model[3].weight.std() < 0.02


def test_gamma_init_can_be_chosen() -> None:
    model = models.build("vgg", classes=10, depth=11, gamma_init=1.0, seed=0)
    assert (model.features[1].weight == 1.0).all()
