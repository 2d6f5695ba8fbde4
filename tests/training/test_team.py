"""Two processes compute what one would: shares, sums, and BatchNorm over all images against torch's own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ebsim.training import team as teams
from ebsim.training.synced_batchnorm import synchronize
from ebsim.training.team import Team
from tests.training.ranks import in_ranks


def member(rank: int, size: int) -> Team:
    one = Team()
    one.rank, one.size = rank, size  # type: ignore[misc]
    return one


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_shares_of_a_batch_are_the_batch(size: int) -> None:
    for images in range(1, 40):
        parts = [list(range(images))[member(rank, size).part(images)] for rank in range(size)]
        if size <= images:
            assert [i for part in parts for i in part] == list(range(images))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
        else:
            assert parts == [list(range(images))] * size


def problem() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(4)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(80, 6), nn.BatchNorm1d(6)
    )
    return model, torch.randn(11, 3, 6, 6) * 3 + 1, torch.randn(11, 6)


@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_have_the_gradients_and_statistics_of_one(tmp_path: Path, size: int) -> None:
    model, x, weights = problem()
    whole = copy.deepcopy(model)
    (whole(x) * weights).sum().backward()

    def work(rank: int) -> dict[str, Any]:
        team = teams.team()
        synchronize(model, team)
        part = team.part(len(x))
        (model(x[part]) * weights[part]).sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        team.sum_(gradients)
        state = {name: value.tolist() for name, value in model.state_dict().items()}
        return state | {f"{name}.grad": p.grad.tolist() for name, p in model.named_parameters() if p.grad is not None}

    first, *others = in_ranks(size, tmp_path, work)
    assert all(other == first for other in others)
    expected = dict(whole.state_dict()) | {f"{name}.grad": p.grad for name, p in whole.named_parameters()}
    assert expected.keys() == first.keys()
    for name, value in expected.items():
        torch.testing.assert_close(torch.tensor(first[name], dtype=value.dtype), value, rtol=2e-5, atol=2e-5)


def test_what_the_leader_has_everybody_gets(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        team = teams.team()
        value = team.share({"epoch": 3, "text": "é"} if rank == 0 else None)
        tensors = team.share_tensors({"a": torch.arange(6).view(2, 3), "b": torch.tensor(2.5), "c": torch.ones(0)}
                                     if rank == 0 else {})  # fmt: skip
        team.check_equal("digests", "00ff10")
        try:
            team.check_equal("digests", f"{rank:02x}")
        except Exception as error:
            return [value, {k: [str(t.dtype), t.tolist()] for k, t in tensors.items()}, str(error)]
        raise AssertionError

    for value, tensors, error in in_ranks(2, tmp_path, work):
        assert value == {"epoch": 3, "text": "é"}
        assert tensors == {
            "a": ["torch.int64", [[0, 1, 2], [3, 4, 5]]], "b": ["torch.float32", 2.5], "c": ["torch.float32", []]
        }  # fmt: skip
        assert "digests differ" in error
