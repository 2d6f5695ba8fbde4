"""A precision beside a GradScaler: the same training, bit for bit, or an error that says why not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ebsim.errors import ConfigError
from ebsim.precision import apply


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4)
    )


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 3, 4, 4, generator=g), torch.randint(4, (8,), generator=g)) for _ in range(3)]


def trained(scale: float | None, *, frozen: bool = False, precision: str = "bfp8_all") -> dict[str, torch.Tensor]:
    """The state after three steps. Scales are powers of two, which blocks with a shared exponent do not notice."""
    model = network()
    if frozen:
        model[0].requires_grad_(False)
    placement = apply(model, precision, seed=0)
    sgd = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    placement.attach(sgd)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
    for step, (x, y) in enumerate(batches()):
        placement.set_step(step)
        sgd.zero_grad()
        scaler.scale(F.cross_entropy(model(x), y)).backward()
        scaler.step(sgd)
        scaler.update()
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("frozen", [False, True])
def test_a_scaled_loss_changes_no_bit(frozen):
    plain, scaled = trained(None, frozen=frozen), trained(2.0**10, frozen=frozen)
    assert all(torch.equal(plain[name], scaled[name]) for name in plain)
    start = network().state_dict()
    assert torch.equal(plain["0.weight"], start["0.weight"]) == frozen  # a frozen layer is left out of the optimizer
    assert not torch.equal(plain["4.weight"], start["4.weight"])


def test_an_overflow_skips_the_step():
    model = network()
    placement = apply(model, "bfp8_all", seed=0)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    placement.attach(sgd)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    placement.set_step(0)
    x, y = batches()[0]
    scaler.scale(F.cross_entropy(model(x), y)).backward()
    model[4].weight.grad[0, 0] = float("inf")
    before = model[4].weight.clone()
    scaler.step(sgd)
    scaler.update()
    assert torch.equal(model[4].weight, before) and scaler.get_scale() == 2.0**9 and not sgd.state


def test_an_optimizer_that_unscales_in_its_own_step_is_refused():
    """Its gradients are still scaled when they are rounded."""
    model = network()
    placement = apply(model, "bfp8_all", seed=0)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    placement.attach(sgd)
    placement.set_step(0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    x, y = batches()[0]
    scaler.scale(F.cross_entropy(model(x), y)).backward()
    with pytest.raises(ConfigError, match=r"fused.*unscale_"):
        scaler.step(sgd)
    sgd.grad_scale = sgd.found_inf = None
    del sgd.grad_scale, sgd.found_inf
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    sgd.zero_grad()
    scaler.scale(F.cross_entropy(model(x), y)).backward()
    scaler.unscale_(sgd)
    before = model[4].weight.clone()
    scaler.step(sgd)
    assert not torch.equal(model[4].weight, before)
