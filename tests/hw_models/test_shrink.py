"""Masks in, shrunk shapes out: against the really shrunk networks, and many candidates at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hw_models
from ebsim.models import build
from ebsim.tickets import channel_mask, compact
from ebsim.torchvision_shim import import_torchvision
from hw_models import Layer, WorkloadError, training_cost
from hw_models.analysis.design_sweep import each
from hw_models.workload import reference_networks
from hw_models.workload.pruned_shapes import candidate_shapes, shrink, widths

from .nets import forward_macs


def _random_gammas(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.uniform_(0.1, 1.0, generator=generator)


def _model(name: str) -> torch.nn.Module:
    if name == "vgg":
        return build("vgg", classes=10, depth=11)
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    return getattr(import_torchvision().models, name)(weights=None, **options)


@pytest.mark.parametrize(
    "name",
    [
        "vgg",
        "resnet18",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("mobilenet_v2", "densenet121", "googlenet")),
    ],
)
def test_shapes_equal_those_of_the_network_really_shrunk(name: str) -> None:
    model, size = _model(name), 32
    _random_gammas(model)
    rows = hw_models.trace(model, (3, size, size), check=False)
    mask = channel_mask(model, 0.6)
    ours = {r.name: r for r in shrink(rows, {n: mask[n].numpy() for n in mask.layers})}
    built = hw_models.trace(compact(model, mask, torch.zeros(2, 3, size, size)), (3, size, size), check=False)
    assert forward_macs(list(ours.values())) == forward_macs(built) < forward_macs(rows)
    for row in built:
        if row.kind in ("conv", "linear"):
            assert (ours[row.name].channels, ours[row.name].macs, ours[row.name].weights) == (
                row.channels,
                row.macs,
                row.weights,
            ), row.name


def test_a_residual_network_needs_no_more_than_the_one_really_shrunk() -> None:
    """The stream may get narrower towards the end; a built network may keep its width throughout."""
    model = build("preresnet", classes=10, depth=29)
    _random_gammas(model)
    rows = hw_models.trace(model, (3, 16, 16), check=False)
    mask = channel_mask(model, 0.5)
    ours = shrink(rows, {n: mask[n].numpy() for n in mask.layers})
    built = hw_models.trace(compact(model, mask, torch.zeros(2, 3, 16, 16)), (3, 16, 16), check=False)
    assert 0.97 * forward_macs(built) <= forward_macs(ours) <= forward_macs(built)


def test_keeping_everything_changes_nothing() -> None:
    rows = reference_networks.resnet18()
    masks = {r.name: np.ones(r.channels[1], bool) for r in rows if r.kind == "bn"}
    assert [r.numbers for r in shrink(rows, masks)] == [r.numbers for r in rows]
    assert shrink(rows, {}) == rows


def test_a_dead_branch_disappears() -> None:
    rows = reference_networks.resnet18()
    dead = {"layer1.0.bn1": np.zeros(64, bool)}
    names = [r.name for r in shrink(rows, dead)]
    assert "layer1.0.bn1" not in names and "layer1.0.conv1" not in names and "layer1.0.add" in names


def test_a_thousand_candidates_at_once_equal_one_by_one() -> None:
    rows = reference_networks.vgg16(10)
    rng = np.random.default_rng(0)
    masks = {r.name: rng.random((5, r.channels[1])) < 0.5 for r in rows if r.kind == "bn"}
    together = each(candidate_shapes(rows, masks), "horowitz-45nm")
    alone = [training_cost(shrink(rows, {n: m[i] for n, m in masks.items()}), "horowitz-45nm").total for i in range(5)]
    assert together.tolist() == pytest.approx(alone, rel=1e-9)
    assert widths(rows, masks).made.shape == (5, len(rows))


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        ({"nobody": np.ones(3, bool)}, "nobody"),
        ({"conv1": np.ones(64, bool)}, "conv1"),
        ({"bn1": np.ones(5, bool)}, "bn1.*has 64"),
    ],
)
def test_masks_that_do_not_fit_are_named(masks: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(WorkloadError, match=words):
        shrink(reference_networks.resnet18(), masks)


def test_what_is_not_understood_keeps_everything() -> None:
    rows = [
        Layer(
            "c",
            "conv",
            macs=8 * 16 * 27,
            inputs=48,
            outputs=128,
            weights=216,
            channels=(3, 8),
            size=(4, 4),
            out=(4, 4),
            kernel=(3, 3),
            first=True,
            sources=("input",),
        ),
        Layer("b", "bn", inputs=128, outputs=128, weights=16, channels=(8, 8), size=(4, 4), out=(4, 4), sources=("c",)),
        Layer("odd", "other", inputs=128, outputs=128, channels=(8, 8), size=(4, 4), out=(4, 4), sources=("b",)),
    ]
    small = shrink(rows, {"b": np.arange(8) < 3})
    assert [r.channels for r in small] == [(3, 3), (3, 3), (3, 8)]
