"""Delayed scales: by hand over several steps, through an evaluation, and through a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ebsim.precision import Placement, apply
from tests.precision.nets import equal
from tests.training.test_trajectory import trajectory


def test_the_scale_is_that_of_the_steps_before() -> None:
    layer = nn.Linear(4, 4, bias=False)
    nn.init.eye_(layer.weight)
    net = nn.Sequential(layer)
    placement = apply(net, {"activation": "e4m3/delayed"}, compile=False)
    past: list[float] = []
    for step, size in enumerate([1.0, 3.0, 0.1, 500.0, 0.3, *[1e-3] * 20]):
        placement.set_step(step)
        x = torch.tensor([[size, size / 3, -size / 7, 0.0]])
        largest = max(past[-16:], default=size)
        scale = 2.0 ** torch.tensor(largest / 448, dtype=torch.float64).log2().ceil().item()
        expected = (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale
        with torch.no_grad():
            assert torch.equal(net(x), expected)
            net.eval()(100 * x)  # an evaluation is scaled by the history and leaves none
            net.train()
        past.append(size)


def test_a_history_is_state() -> None:
    def begin() -> tuple[nn.Module, Placement]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
        formats = {"weight": "e4m3/delayed", "activation": "e4m3/delayed", "error": "e5m2/delayed"}
        return model, apply(model, formats, compile=False)

    model, placement = begin()
    for step in range(3):
        placement.set_step(step)
        model(torch.randn(8, 6)).sum().backward()
    other, again = begin()
    again.load_state({name: value.clone() for name, value in placement.state().items()})
    fresh, unaware = begin()
    for who in (placement, again, unaware):
        who.set_step(3)
    x = torch.randn(8, 6) * 50
    wanted = model(x)
    assert torch.equal(wanted, other(x)) and not torch.equal(wanted, fresh(x))  # the histories clip what is so large


def test_a_stopped_training_goes_on_alike(tmp_path: Path) -> None:
    straight = trajectory(tmp_path / "straight", backend="fp8_delayed")
    straight.extend(4)
    parts = trajectory(tmp_path / "parts", backend="fp8_delayed")
    parts.extend(2)
    parts = trajectory(tmp_path / "parts", backend="fp8_delayed")
    parts.extend(4)
    assert torch.equal(straight.gammas, parts.gammas)
    assert equal(list(straight.state_at(4).values()), list(parts.state_at(4).values()))
