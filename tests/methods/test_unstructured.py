"""Methods that prune single weights, against small oracles that share no code with them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from ebsim.experiment.training_stages import dense_training
from ebsim.methods import METHODS, grasp, snip, synflow
from ebsim.methods.unstructured import prunable, weight_mask
from ebsim.training import ZeroWeights, make_optimizer
from tests.methods.toy_context import context
from tests.training.toy import ToyData, toy_network


def batch(images: int = 12) -> tuple[Tensor, Tensor]:
    data = ToyData()
    return data.x[:images], data.y[:images]


def test_prunable_are_the_weights_of_convolutions_and_linear_layers() -> None:
    model = toy_network()
    assert {name: tuple(weight.shape) for name, weight in prunable(model).items()} == {
        "0.weight": (6, 3, 3, 3),
        "3.weight": (8, 6, 3, 3),
        "8.weight": (3, 8),
    }


def test_the_mask_prunes_exactly_the_smallest() -> None:
    scores = {"a": torch.tensor([[3.0, 1.0], [0.5, -2.0]]), "b": torch.tensor([9.0, 0.1, 4.0])}
    mask = weight_mask(scores, 3 / 7)
    assert mask["a"].tolist() == [True, True, False, False]
    assert mask["b"].tolist() == [True, False, True]
    kept_one = weight_mask({"a": torch.tensor([5.0, 6.0]), "b": torch.tensor([0.1, 0.2])}, 0.5)
    assert kept_one["b"].tolist() == [False, True]  # a layer is never cut off
    assert kept_one.kept_floor == ("b",)


def test_snip_is_the_gradient_of_the_switches() -> None:
    """Autograd with an explicit switch c on every weight, at c = 1."""
    model, (images, labels) = toy_network().train(), batch()
    switches = {name: torch.ones_like(w, requires_grad=True) for name, w in prunable(model).items()}
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    switched = parameters | {name: parameters[name] * c for name, c in switches.items()}
    functional.cross_entropy(functional_call(model, switched, (images,)), labels).backward()
    found = snip.sensitivities(toy_network(), images, labels)
    for name, c in switches.items():
        assert c.grad is not None
        torch.testing.assert_close(found[name], c.grad.abs().double(), rtol=1e-4, atol=1e-6)


def test_grasp_is_the_fall_of_the_gradient_norm() -> None:
    """Central differences of |g|^2 / 2 along each weight's own removal, in float64."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    images, labels = torch.randn(6, 4).double(), torch.arange(6) % 2
    found = grasp.flow(model, images, labels, temperature=2.0)
    weights = prunable(model)

    def half_norm() -> float:
        loss = functional.cross_entropy(model(images) / 2.0, labels)
        return sum(float((g * g).sum()) for g in torch.autograd.grad(loss, list(weights.values()))) / 2

    step = 1e-5
    for name, weight in weights.items():
        for index in itertools.product(*map(range, weight.shape)):
            value = float(weight.detach()[index])
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    weight[index] = value * (1 + sign * step)
                sides.append(half_norm())
            with torch.no_grad():
                weight[index] = value
            slope = (sides[0] - sides[1]) / (2 * step)  # d/dc at c = 1, removal goes the other way
            assert float(found[name][index]) == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_synflow_counts_paths_and_conserves_them() -> None:
    """Two bias-free layers: a weight's score adds up the |w| products of its paths; each layer's scores add to R."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    first, second = (model[i].weight.detach().abs().double() for i in (0, 2))
    found = synflow.flow(model, torch.ones(1, 3), ratio=0.0, rounds=1)
    for i, j in itertools.product(range(4), range(3)):
        paths = sum(float(first[i, j] * second[k, i]) for k in range(2))
        assert float(found["0.weight"][i, j]) == pytest.approx(paths)
    total = float((second @ first).sum())
    assert float(found["0.weight"].sum()) == pytest.approx(total)
    assert float(found["2.weight"].sum()) == pytest.approx(total)


def test_synflow_keeps_every_layer_alive_and_what_was_pruned_stays_so() -> None:
    model = toy_network()
    scores = synflow.flow(model, torch.ones(1, 3, 6, 6), ratio=0.9, rounds=20)
    mask = weight_mask(scores, 0.9)
    assert mask.ratio == pytest.approx(0.9, abs=0.01)
    zero = sum(int((weight == 0).sum()) for weight in prunable(model).values())
    assert zero == round(0.9 * len(mask))
    for name, weight in prunable(model).items():
        assert torch.equal(mask[name].view(weight.shape), weight != 0)


def test_masked_weights_stay_exactly_zero_whatever_pushes_them() -> None:
    """Momentum from before, weight decay and gradients all push; weights and momentum are zero after every step."""
    model = toy_network().to(memory_format=torch.channels_last)
    images, labels = batch()
    sgd = make_optimizer(model, lr=0.1, momentum=0.9, weight_decay=0.1)

    def step() -> None:
        sgd.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        sgd.step()

    step()  # unconstrained: now there is momentum everywhere
    scores = {name: torch.rand_like(weight) for name, weight in prunable(model).items()}
    mask = weight_mask(scores, 0.6)
    constraint = ZeroWeights(mask)
    free = {name: weight.detach().clone() for name, weight in prunable(model).items()}
    for _ in range(5):
        step()
        pushed = any(bool((w.detach()[~mask[n].view(w.shape)] != 0).any()) for n, w in prunable(model).items())
        assert pushed  # the constraint has something to do
        constraint.after_step(model, sgd)
        for name, weight in prunable(model).items():
            pruned = ~mask[name].view(weight.shape)
            assert bool((weight.detach()[pruned] == 0).all())
            assert bool((sgd.state[weight]["momentum_buffer"][pruned] == 0).all())
            assert bool((weight.detach()[~pruned] != free[name][~pruned]).any())


@pytest.mark.parametrize("precision", ["fp32", "bfp8"])
def test_zero_through_a_whole_training_and_a_resumed_one(tmp_path: Path, precision: str) -> None:
    settings = {"prune": {"ratio": [0.5]}, "precision": {"search": precision, "retrain": precision}}
    toy = context(tmp_path, **settings)
    (row,) = METHODS["snip"].results(toy)
    trajectory = toy.trajectories[row.curve]
    masks = trajectory.state_at(0)
    zeros = {name: value == 0 for name, value in masks.items() if name in prunable(toy.dense_network())}
    assert sum(int(z.sum()) for z in zeros.values()) == round(0.5 * sum(z.numel() for z in zeros.values()))
    for epoch in range(1, 5):
        state = trajectory.state_at(epoch)
        assert all(bool((state[name][zero] == 0).all()) for name, zero in zeros.items())

    METHODS["snip"].results(context(tmp_path / "pieces", **settings, train={"epochs": 2, "milestones": [3]}))
    again = context(tmp_path / "pieces", **settings)
    (resumed,) = METHODS["snip"].results(again)
    if precision == "fp32":  # bfp8 averages its last weights, from an epoch that depends on N
        assert again.trajectories[resumed.curve].trained == 2
    for name, value in again.trajectories[resumed.curve].state_at(4).items():
        assert torch.equal(value, trajectory.state_at(4)[name]), name


def test_the_lottery_ticket_is_rewound_to_the_bit(tmp_path: Path) -> None:
    toy = context(tmp_path, prune={"ratio": [0.7]})
    (row,) = METHODS["lottery-ticket"].results(toy)
    start, dense = toy.trajectories[row.curve].state_at(0), toy.dense_network().state_dict()
    final = dense_training(toy).trajectory.state_at(4)
    names = list(prunable(toy.dense_network()))
    sizes = sorted(abs(value) for name in names for value in final[name].flatten().tolist())
    threshold = sizes[round(0.7 * len(sizes)) - 1]
    for name, value in dense.items():
        if name in names:
            kept = final[name].abs() > threshold
            if bool(kept.any()):  # else the layer's floor
                assert torch.equal(start[name], torch.where(kept, value, 0.0)), name
        else:
            assert torch.equal(start[name], value), name
    assert row.weights_kept == pytest.approx(0.3, abs=1e-3)
