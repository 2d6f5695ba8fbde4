"""Soft filter pruning: what is zero after each epoch, that it may come back, and that the cut changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ebsim import tickets
from ebsim.methods import METHODS
from ebsim.training import SoftFilters, Trajectory
from tests.methods.toy_context import context
from tests.training.toy import ToyData, toy_network


def test_after_an_epoch_the_weakest_filters_are_zero() -> None:
    model = toy_network()
    with torch.no_grad():
        for row, size in enumerate((3.0, 0.1, 2.0, 0.2, 5.0, 4.0)):
            model[0].weight[row] = size
    before = model[0].weight.detach().clone()
    soft = SoftFilters({"1": "0", "4": "3"}, 0.34, last=2)
    soft.after_epoch(model, 1)
    gone = [1, 3]
    kept = [0, 2, 4, 5]
    assert bool((model[0].weight.detach()[gone] == 0).all())
    assert bool((model[1].weight.detach() != 0).all())
    soft.after_epoch(model, 2)
    for tensor in (model[0].weight, model[1].weight, model[1].bias):
        assert bool((tensor.detach()[gone] == 0).all())
    assert torch.equal(model[0].weight.detach()[kept], before[kept])
    assert bool((model[1].weight.detach()[kept] != 0).all())
    assert int((model[3].weight.detach().flatten(1).norm(dim=1) == 0).sum()) == int(0.34 * 8)


def test_one_filter_stays() -> None:
    model = toy_network()
    SoftFilters({"1": "0"}, 0.99, last=1).after_epoch(model, 1)
    assert int((model[1].weight.detach() != 0).sum()) == 1


@pytest.mark.parametrize("name", ["sfp", "sfp-pretrained"])
def test_through_a_training(tmp_path: Path, name: str) -> None:
    """After every epoch int(p n) filters of each inner layer are zero, not always the same ones."""
    toy = context(tmp_path, prune={"ratio": [0.5]}, train={"keep_every": 1})
    (row,) = METHODS[name].results(toy)
    trajectory = toy.trajectories[row.curve]
    inner = {"layer1.0.bn2": "layer1.0.conv1", "layer1.0.bn3": "layer1.0.conv2"}
    dead: list[set[tuple[str, int]]] = []
    for epoch in range(1, 5):
        state = trajectory.state_at(epoch)
        now = set()
        for norm, convolution in inner.items():
            filters = state[f"{convolution}.weight"].flatten(1).norm(dim=1)
            zero = (filters == 0).nonzero()[:, 0].tolist()
            assert len(zero) == 8
            assert bool((state[f"{norm}.weight"][zero] == 0).all()) == (epoch == 4)
            assert bool((state[f"{norm}.bias"][zero] == 0).all()) == (epoch == 4)
            now |= {(norm, channel) for channel in zero}
        assert bool((state["layer2.0.bn1.weight"] != 0).all())  # two convolutions make its channels
        assert bool((state["conv1.weight"].flatten(1).norm(dim=1) != 0).all())  # a projection reads it, too
        dead.append(now)
    assert len(set.union(*dead)) > len(dead[-1])  # some filters came back for good
    # What is cut out in the end changes nothing.
    model = toy.dense_network()
    model.load_state_dict(trajectory.state_at(4))
    cut = tickets.compact(model, toy.masks[row.network], toy.example())
    images = torch.nn.functional.pad(ToyData().x[:9], (1, 1, 1, 1))
    model.eval()
    cut.eval()
    torch.testing.assert_close(cut(images), model(images), rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in model.parameters())


def test_resumed_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after two epochs and taken up by another process."""
    (expected,) = METHODS["sfp"].results(context(tmp_path / "whole", prune={"ratio": [0.5]}))
    real = Trajectory.extend
    with monkeypatch.context() as patch:
        patch.setattr(Trajectory, "extend", lambda self, to, until=None: real(self, 2, until))
        with pytest.raises(IndexError):
            METHODS["sfp"].results(context(tmp_path / "pieces", prune={"ratio": [0.5]}))
    pieces = context(tmp_path / "pieces", prune={"ratio": [0.5]})
    (row,) = METHODS["sfp"].results(pieces)
    assert row.curve == expected.curve
    assert pieces.trajectories[row.curve].trained == 2
    assert row.network == expected.network
    assert row.accuracy == expected.accuracy
