"""One step gives the same bits in any layout, cut of the batch and driver, where the products' own sums are exact.

What may differ between layouts or processes is the order in which floats are added, and nothing else: so these
networks have operands on grids whose products and sums are exact in fp32 in every order. Then all bits must agree,
noise included.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ebsim.precision import apply

FORMATS = ["int8/unscaled", "int8/unscaled stochastic", "e2m1/unscaled", "e2m1/unscaled stochastic"]


class Exact(nn.Module):
    """Convolutions, a transposed one and a classifier, without a normalization (whose means are rounded)."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.two = nn.Conv2d(4, 4, 3, stride=2, groups=2, bias=False)
        self.up = nn.ConvTranspose2d(4, 3, 2, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.last = nn.Linear(12, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.pool(self.up(torch.relu(self.two(torch.relu(self.one(x)))))).flatten(1))


def step(
    spec: str, x: Tensor, e: Tensor, *, compile: bool = False, last: bool = False, cuts: int = 1
) -> dict[str, Any]:
    """The outputs and all gradients of one step, over the whole batch or `cuts` parts of it."""
    torch.manual_seed(0)
    net = Exact()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(8)
    if last:
        net, x = net.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    role = {name: spec for name in ("weight", "activation", "error", "output", "activation_gradient", "pointwise")}
    placed = apply(net, role, seed=3, compile=compile)
    outputs, inputs = [], []
    size = len(x) // cuts
    for i in range(cuts):
        part = slice(i * size, (i + 1) * size)
        placed.set_step(5, first_sample=i * size)
        given = x[part].detach().requires_grad_()
        y = net(given)
        y.backward(e[part])
        outputs.append(y.detach())
        inputs.append(given.grad)
    found = {"y": torch.cat(outputs), "x": torch.cat(inputs).contiguous()}
    return found | {name: p.grad.contiguous() for name, p in net.named_parameters()}


@pytest.mark.parametrize("spec", FORMATS)
@pytest.mark.parametrize(
    "how",
    [
        {"last": True},
        {"cuts": 2},
        {"cuts": 4},
        {"last": True, "cuts": 2},
        {"compile": True},
        {"compile": True, "last": True},
    ],
    ids=str,
)
def test_layout_cut_and_driver_change_no_bit_where_sums_are_exact(spec: str, how: dict[str, Any]) -> None:
    g = torch.Generator().manual_seed(1)
    x = torch.randint(-4, 5, (8, 3, 9, 9), generator=g).float()
    e = torch.randint(-3, 4, (8, 5), generator=g).float()
    base, other = step(spec, x, e), step(spec, x, e, **how)
    for name, value in base.items():
        assert value.abs().max() < 2**24 and value.abs().sum() > 0, name
        assert torch.equal(value.view(torch.int32), other[name].view(torch.int32)), name
