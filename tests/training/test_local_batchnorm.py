"""BatchNorm over parts of a batch: one process and as many as there are parts train the same; an oracle says what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from ebsim import pipeline
from ebsim.errors import ConfigError
from ebsim.runs.store import Store
from ebsim.training import Trajectory
from ebsim.training import team as teams
from ebsim.training.local_batchnorm import localize, parts
from ebsim.training.team import ALONE
from tests.training.ranks import in_ranks
from tests.training.test_trajectory import CPU, TRAIN
from tests.training.toy import ToyData, toy_network

PARTED = TRAIN.model_copy(update={"batchnorm_parts": 2})


def trained(root: Path, train: Any = PARTED) -> Trajectory:
    stage = Store(root, writable=teams.team().leader).stage("dense", {"toy": train.batchnorm_parts})
    run = Trajectory(stage, toy_network, ToyData(), train, seed=3, device=CPU)
    run.extend(3)
    return run


def by_hand(layer: nn.BatchNorm2d, x: torch.Tensor, pieces: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Output, running mean and variance after one batch, from the definition."""
    outputs, means, variances = [], [], []
    for piece in pieces:
        mean, variance = piece.mean((0, 2, 3)), piece.var((0, 2, 3), unbiased=False)
        flat = [value.view(1, -1, 1, 1) for value in (mean, variance, layer.weight, layer.bias)]
        outputs.append((piece - flat[0]) / (flat[1] + layer.eps).sqrt() * flat[2] + flat[3])
        count = piece.numel() / piece.shape[1]
        means.append(mean)
        variances.append(variance * count / (count - 1))
    old = 1 - layer.momentum
    return (
        torch.cat(outputs),
        0.1 * torch.stack(means).mean(0) + old * torch.zeros(x.shape[1]),
        0.1 * torch.stack(variances).mean(0) + old * torch.ones(x.shape[1]),
    )


@pytest.mark.parametrize(("images", "count", "sizes"), [(8, 2, [4, 4]), (7, 3, [3, 2, 2]), (2, 3, [2])])
def test_each_part_is_normalized_by_itself(images: int, count: int, sizes: list[int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(images, 3, 4, 4) * 2 + torch.arange(float(images)).view(-1, 1, 1, 1)
    layer = nn.BatchNorm2d(3)
    nn.init.uniform_(layer.weight)
    assert [part.stop - part.start for part in parts(images, count)] == sizes
    expected = by_hand(layer, x, list(x.split(sizes)))
    localize(layer, count, ALONE)
    y = layer(x)
    for ours, theirs in zip((y, layer.running_mean, layer.running_var), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    layer.eval()
    plain = functional.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias)  # type: ignore[arg-type]
    assert torch.equal(layer(x), plain)


def test_two_processes_train_what_one_does_with_two_parts(tmp_path: Path) -> None:
    alone = trained(tmp_path / "alone")

    def work(rank: int) -> Any:
        run = trained(tmp_path / "team")
        return [run.gammas.tolist(), [row["loss"] for row in run.curve], [row["test_loss"] for row in run.curve]]

    first, second = in_ranks(2, tmp_path, work)
    assert first == second
    for key, values in (("loss", first[1]), ("test_loss", first[2])):
        assert values == pytest.approx([row[key] for row in alone.curve], rel=1e-4)
    torch.testing.assert_close(torch.tensor(first[0]), alone.gammas, rtol=1e-4, atol=1e-5)
    whole = trained(tmp_path / "whole", TRAIN)
    assert abs(whole.curve[0]["loss"] - alone.curve[0]["loss"]) > 5e-4  # another recipe


def test_other_numbers_of_processes_are_refused(tmp_path: Path) -> None:
    def work(rank: int) -> str:
        try:
            trained(tmp_path / "team", TRAIN.model_copy(update={"batchnorm_parts": 3}))
        except ConfigError as error:
            return str(error)
        return ""

    assert all("train.batchnorm_parts = 3" in said for said in in_ranks(2, tmp_path, work))


def test_it_is_part_of_what_a_run_is(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('name = "a"\n')
    plain, parted = pipeline.load(path), pipeline.load(path, {"train.batchnorm_parts": 2})
    assert plain.identity() != parted.identity() and "batchnorm_parts" not in plain.identity()["train"]
    for settings in ({"train.compile": True}, {"train.kernels": "fused"}, {"train.batch_size": 3}):
        with pytest.raises(ConfigError, match="batchnorm_parts"):
            pipeline.load(path, {"train.batchnorm_parts": 2, **settings})
