"""Adam and AdamW states in a low precision: against their formulas, rounded by hand; bytes and traffic by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import hw_models
from ebsim.errors import ConfigError
from ebsim.precision import apply, quantize
from hw_models.analysis.memory import footprint
from hw_models.cost.vector_ops import UPDATE

STATES = {"gradient": "bf16", "momentum": "bfp8 stochastic", "second_moment": "e5m2 stochastic", "stored": "bf16"}


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_every_step_is_the_formula_and_then_the_rounding(kind: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 7), nn.Linear(7, 3))
    placed = apply(net, STATES, seed=4, compile=False)
    lr, b1, b2, eps, decay = 0.01, 0.9, 0.99, 1e-8, 0.1
    make: Any = torch.optim.Adam if kind == "adam" else torch.optim.AdamW
    optimizer = make(net.parameters(), lr=lr, betas=(b1, b2), eps=eps, weight_decay=decay)
    placed.attach(optimizer)
    w = {n: p.detach().clone() for n, p in net.named_parameters()}
    m, v = ({n: torch.zeros_like(p) for n, p in w.items()} for _ in range(2))
    for step in range(6):
        placed.set_step(step)
        optimizer.zero_grad()
        (net(torch.randn(5, 6)) ** 3).sum().backward()
        grads = {n: p.grad.clone() for n, p in net.named_parameters()}
        optimizer.step()

        for name in w:
            matrix = name.endswith("weight")

            def rounded(
                role: str, x: torch.Tensor, on: bool = matrix, name: str = name, at: int = step
            ) -> torch.Tensor:
                fmt, _, how = STATES[role].partition(" ")
                key = {"seed": 4, "step": at, "layer": f":{name}", "role": role}
                return quantize(x, fmt, rounding=how or "nearest", **key) if on else x

            g = rounded("gradient", grads[name])
            if kind == "adam":
                g = g + decay * w[name]
            else:
                w[name] = w[name] * (1 - lr * decay)
            m[name] = b1 * m[name] + (1 - b1) * g
            v[name] = b2 * v[name] + (1 - b2) * g * g
            hat = (v[name] / (1 - b2 ** (step + 1))).sqrt() + eps
            w[name] = rounded("stored", w[name] - lr * (m[name] / (1 - b1 ** (step + 1))) / hat)
            state = optimizer.state[dict(net.named_parameters())[name]]
            # the same formula in another order of operations: equal but for the last bits, before it is rounded
            m[name], v[name] = rounded("momentum", m[name]), rounded("second_moment", v[name])
            for own, other in ((m[name], state["exp_avg"]), (v[name], state["exp_avg_sq"])):
                moved = ((own - other).abs() > 1e-6 * own.abs()).sum()
                assert moved <= 1, (name, step)
                own.copy_(other)
            assert ((w[name] - dict(net.named_parameters())[name]).abs() > 1e-6).sum() <= 1
            w[name] = dict(net.named_parameters())[name].detach().clone()
            if matrix:
                assert torch.equal(quantize(v[name], "e5m2"), v[name]) and (v[name] >= 0).all()


def test_states_of_vectors_follow_one_dimensional() -> None:
    net = nn.Sequential(nn.Linear(4, 4))
    placed = apply(net, {"one_dimensional": "bf16"}, compile=False)
    optimizer = torch.optim.AdamW(net.parameters())
    placed.attach(optimizer)
    placed.set_step(0)
    net(torch.randn(3, 4)).square().sum().backward()
    optimizer.step()
    state = optimizer.state[net[0].bias]
    assert all(torch.equal(state[k], state[k].bfloat16().float()) for k in ("exp_avg", "exp_avg_sq"))
    weight = optimizer.state[net[0].weight]["exp_avg_sq"]
    assert not torch.equal(weight, weight.bfloat16().float())


def test_what_is_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 4))
    placed = apply(net, STATES, compile=False)
    for optimizer, words in (
        (torch.optim.SGD(net.parameters(), lr=0.1), "keeps no second moment"),
        (torch.optim.Adam(net.parameters(), amsgrad=True), "third state"),
    ):
        with pytest.raises(ConfigError, match=words):
            placed.attach(optimizer)
    with pytest.raises(ConfigError, match="not RMSprop"):
        apply(net, {"momentum": "bf16"}, compile=False).attach(torch.optim.RMSprop(net.parameters()))


def test_the_update_is_priced_with_both_moments() -> None:
    """By hand: Linear 6 -> 5 with bias; bits read: gradient 16, moments 9 a code and exponent... see the sums."""
    net = nn.Sequential(nn.Linear(6, 5))
    rows = hw_models.trace(net, (6,), check=False)

    def update(table: dict[str, str], optimizer: Any) -> tuple[float, float, float, float]:
        placed = apply(net, table, compile=False)
        placed.attach(optimizer)
        cost = hw_models.training_cost(rows, "horowitz-45nm", placed.record(), 4, "compulsory", hypothetical=True)
        vector = {p.key: float(p.counts[3].sum()) for p in cost.parts if p.component == "vector"}
        dram = sum(float(p.counts[3].sum()) for p in cost.parts if p.component == "dram")
        parameters = footprint(rows, placed.record(), 4).parameters
        return dram, vector["op.multiply"], vector["op.add"], parameters

    adam = torch.optim.Adam(net.parameters())
    plain = update({}, torch.optim.SGD(net.parameters(), lr=0.1))
    assert plain == (35 * 5 * 32, 35 * 3, 35 * 3, 35 * 12)
    assert update({}, adam) == (35 * 7 * 32, 35 * UPDATE["adam"][0], 35 * UPDATE["adam"][1], 35 * 16)
    table = {"momentum": "bf16", "second_moment": "e5m2 stochastic"}
    got = update(table, adam)
    matrix = (32 + 16 + 8 + 32) + (16 + 8 + 32)  # read: gradient, moments, weight; written: moments, weight
    assert got[0] == 30 * matrix + 5 * 7 * 32 and got[3] == 35 * (32 + 32 + 16 + 8) / 8
