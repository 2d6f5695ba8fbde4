"""What two processes and one differ by is rounding: in float64 they agree, in float32 as one process with itself.

The trainings are written out here: five steps of SGD on image tensors, in one process with torch's own BatchNorm, and
in two with the team's. In float32 a training of a deep network multiplies differences in the last bit. How much, one
process tells by itself: the images of every batch in another order are the same step for exact arithmetic.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from ebsim import models, tickets
from ebsim.training import team as teams
from ebsim.training.synced_batchnorm import synchronize
from tests.training.ranks import in_ranks

STEPS, BATCH = 5, 64


def train(name: str, depth: int, dtype: torch.dtype, *, mixed: int | None = None) -> tuple[list[float], list[float]]:
    """Losses of the steps, and the scores of all channels. mixed: seed of another order within each batch."""
    team = teams.team()
    model = models.build(name, depth=depth, classes=10, input_shape=(3, 32, 32), seed=1).to(dtype)
    if team.size > 1:
        synchronize(model, team)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(0)
    order = torch.Generator().manual_seed(mixed or 0)
    losses = []
    for _ in range(STEPS):
        images = torch.randn(BATCH, 3, 32, 32, generator=generator, dtype=torch.float64).to(dtype)
        labels = torch.randint(0, 10, (BATCH,), generator=generator)
        if mixed is not None:
            shuffled = torch.randperm(BATCH, generator=order)
            images, labels = images[shuffled], labels[shuffled]
        part = team.part(BATCH)
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images[part]), labels[part], reduction="sum") / BATCH
        loss.backward()
        total = loss.detach().clone()
        team.sum_([parameter.grad for parameter in model.parameters()])  # type: ignore[misc]
        team.sum_([total.view(1)])
        losses.append(float(total))
        optimizer.step()
    return losses, tickets.gammas(model).tolist()


def compare(folder: Path, name: str, depth: int, dtype: torch.dtype) -> tuple[Any, Any]:
    first, second = in_ranks(2, folder, lambda rank: train(name, depth, dtype))
    assert first == second
    return train(name, depth, dtype), first


def off(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(one, other, strict=True))


def test_in_float64_they_agree(tmp_path: Path) -> None:
    alone, team = compare(tmp_path, "preresnet", 11, torch.float64)
    assert off(team[0], alone[0]) < 1e-12
    torch.testing.assert_close(torch.tensor(team[1]), torch.tensor(alone[1]), rtol=1e-10, atol=1e-10)


NETWORKS = [("preresnet", 20), ("vgg", 16)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "depth"), NETWORKS)
def test_in_float64_real_networks_agree(tmp_path: Path, name: str, depth: int) -> None:
    alone, team = compare(tmp_path, name, depth, torch.float64)
    print(f"{name}{depth} float64: losses of {STEPS} steps to {off(team[0], alone[0]):.1e}")
    assert off(team[0], alone[0]) < 1e-9
    layers = tickets.bn_layers(models.build(name, depth=depth, classes=10, input_shape=(3, 32, 32), seed=1))
    masks = [tickets.masks_from_gammas(torch.tensor(own[1]), layers, 0.5) for own in (team, alone)]
    assert masks[0] == masks[1]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "depth"), NETWORKS)
def test_in_float32_they_differ_as_one_process_does_with_itself(tmp_path: Path, name: str, depth: int) -> None:
    alone, team = compare(tmp_path, name, depth, torch.float32)
    orders = [off(train(name, depth, torch.float32, mixed=seed)[0], alone[0]) for seed in (1, 2, 3)]
    exact = train(name, depth, torch.float64)[0]
    told = ", ".join(f"{value:.1e}" for value in orders)
    print(f"{name}{depth} float32: losses of {STEPS} steps to {off(team[0], alone[0]):.1e}; one process in three other")
    print(f"orders: {told}; off float64: one {off(alone[0], exact):.1e}, two {off(team[0], exact):.1e}")
    assert off(team[0], alone[0]) < 4 * max(orders)
    assert off(team[0], exact) < 4 * off(alone[0], exact)
