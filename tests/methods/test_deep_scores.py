"""Scores that prune single weights, in a network of 101 layers: the published rules in float64, written anew.

In deep networks scores span a hundred orders of magnitude: what is right in a toy network may overflow or tie there.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from ebsim import models
from ebsim.errors import DivergedError
from ebsim.methods import grasp, snip, synflow
from ebsim.methods.unstructured import weight_mask

RATIO, ROUNDS = 0.5, 6


def network(depth: int = 101) -> nn.Module:
    return models.build("preresnet", depth=depth, classes=10, input_shape=(3, 8, 8), seed=0)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(16, 3, 8, 8, generator=generator), torch.randint(10, (16,), generator=generator)


@cache
def weights() -> dict[str, Tensor]:
    """Convolution and linear weights in module order, in float64."""
    return {n: p.detach().double() for n, p in network().named_parameters() if p.ndim > 1}


def keep(scores: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """Masks that prune the `count` smallest scores of all and leave one weight to every layer."""
    flat = np.concatenate([score.numpy().ravel() for score in scores.values()])
    gone = np.zeros(flat.size, bool)
    gone[np.argsort(flat, kind="stable")[:count]] = True
    masks, start = {}, 0
    for name, score in scores.items():
        part = gone[start : start + score.numel()]
        if part.all():
            part[np.argmax(score.numpy().ravel())] = False
        masks[name] = torch.from_numpy(~part).view(score.shape)
        start += score.numel()
    return masks


def gradients(inputs: Tensor, values: dict[str, Tensor], loss: object, *, train: bool, absolute: bool = False) -> list:
    model = network().double().train(train)
    state = {name: t.abs() if absolute and t.is_floating_point() else t for name, t in model.state_dict().items()}
    own = {name: value.clone().requires_grad_() for name, value in values.items()}
    out = functional_call(model, {**state, **own}, (inputs,))
    return list(torch.autograd.grad(loss(out), list(own.values())))  # type: ignore[operator]


def published_synflow() -> dict[str, Tensor]:
    """Tanaka et al.: score, prune to (1 - p)^(k / K), zero what is pruned, again."""
    ones, total = torch.ones(1, 3, 8, 8).double(), sum(w.numel() for w in weights().values())
    masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights().items()}
    scores: dict[str, Tensor] = {}
    for k in range(1, ROUNDS + 1):
        values = {name: w.abs() * masks[name] for name, w in weights().items()}
        found = gradients(ones, values, lambda out: out.sum(), train=False, absolute=True)
        scores = {name: (value * g).abs() for (name, value), g in zip(values.items(), found, strict=True)}
        masks = keep(scores, round((1 - (1 - RATIO) ** (k / ROUNDS)) * total))
    return masks


def published_snip() -> dict[str, Tensor]:
    images, labels = batch()
    found = gradients(images.double(), weights(), lambda out: functional.cross_entropy(out, labels), train=True)
    scores = {name: (w * g).abs() for (name, w), g in zip(weights().items(), found, strict=True)}
    return keep(scores, round(RATIO * sum(s.numel() for s in scores.values())))


def published_grasp() -> dict[str, Tensor]:
    """w * (H g) by differentiating the gradient along itself."""
    images, labels = batch()
    model = network().double().train()
    state, own = model.state_dict(), {name: w.clone().requires_grad_() for name, w in weights().items()}
    loss = functional.cross_entropy(functional_call(model, {**state, **own}, (images.double(),)) / 200, labels)
    first = torch.autograd.grad(loss, list(own.values()), create_graph=True)
    second = torch.autograd.grad(first, list(own.values()), grad_outputs=[g.detach() for g in first])
    scores = {name: w.detach() * hg for (name, w), hg in zip(own.items(), second, strict=True)}
    return keep(scores, round(RATIO * sum(s.numel() for s in scores.values())))


@cache
def ours(name: str) -> dict[str, Tensor]:
    images, labels = batch()
    model = network()
    if name == "snip":
        scores = snip.sensitivities(model, images, labels)
    elif name == "grasp":
        scores = grasp.flow(model, images, labels, temperature=200.0)
    else:
        scores = synflow.flow(model, torch.ones(1, 3, 8, 8), RATIO, ROUNDS)
    assert {s.dtype for s in scores.values()} == {torch.float64}
    mask = weight_mask(scores, RATIO)
    return {layer: mask[layer].view(weight.shape) for layer, weight in weights().items()}


@pytest.mark.parametrize(
    ("name", "published"), [("snip", published_snip), ("grasp", published_grasp), ("synflow", published_synflow)]
)
def test_the_mask_is_that_of_the_published_rule(name: str, published: object) -> None:
    expected = published()  # type: ignore[operator]
    found = ours(name)
    different = sum(int((found[layer] != expected[layer]).sum()) for layer in found)
    total = sum(mask.numel() for mask in found.values())
    assert different <= 1e-5 * total  # two scores at the threshold may differ in the last bit
    assert sum(int((~mask).sum()) for mask in found.values()) >= round(RATIO * total) - len(found)


def test_synflow_leaves_the_first_layers_alone() -> None:
    """Scores that overflowed to infinity tied, and the ties pruned the network from its front."""
    first = ours("synflow")["conv1.weight"]
    assert int(first.sum()) > 0.95 * first.numel()


def test_layers_that_only_the_floor_keeps_are_named() -> None:
    scores = synflow.flow(network(), torch.ones(1, 3, 8, 8), RATIO, ROUNDS)
    assert set(weight_mask(scores, RATIO).kept_floor) == {"layer2.0.downsample.weight", "layer3.0.downsample.weight"}


def test_scores_beyond_float64_are_an_error() -> None:
    model = network()
    for parameter in model.parameters():
        parameter.data.mul_(1e6)
    with pytest.raises(DivergedError, match=r"synflow: scores .* exceed float64"):
        synflow.flow(model, torch.ones(1, 3, 8, 8), RATIO, 1)
