"""Small trainings on real digits: 8-bit operands learn like fp32; 8-bit weights rounded to nearest stop learning."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ebsim.precision import apply


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(images).float().view(-1, 1, 8, 8) / 8 - 1
    return x, torch.from_numpy(labels).long()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def final_loss(backend: Any, lr: float = 0.05, steps: int = 60) -> float:
    """Loss on 512 images of the training set after `steps` steps of SGD with momentum."""
    x, y = digits()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    placement = apply(model, backend, seed=1, compile=False)
    placement.attach(optimizer)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    for step in range(steps):
        placement.set_step(step)
        pick = order[torch.arange(step * 64, step * 64 + 64) % len(order)]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[pick]), y[pick]).backward()
        optimizer.step()
    with torch.no_grad():
        return nn.functional.cross_entropy(model(x[:512]), y[:512]).item()


@functools.cache
def full_precision(lr: float = 0.05, steps: int = 60) -> float:
    return final_loss("fp32", lr, steps)


@pytest.mark.parametrize("backend", ["bf16", "fp8", "int8", "bfp8", "eb2020"])
def test_every_preset_learns_like_fp32(backend: str) -> None:
    start, full = full_precision(steps=0), full_precision()
    assert full < 0.3 * start
    assert final_loss(backend) < full + 0.1 * (start - full)


@pytest.mark.parametrize("stored", ["int8/row", "e4m3", "bfp8"])
def test_negative_control_8_bit_weights_rounded_to_nearest_stall(stored: str) -> None:
    """At a learning rate whose updates are mostly below half a step."""
    lr, steps = 0.002, 90
    full = full_precision(lr, steps)
    stuck = final_loss({"stored": stored, "allow_stalling": True}, lr, steps)
    saved = final_loss({"stored": f"{stored} stochastic"}, lr, steps)
    assert stuck > full + 0.15 and saved < full + 0.05, (full, saved, stuck)
