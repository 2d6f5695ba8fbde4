"""Straight-through clipping: the gradient is zero exactly where the value was clipped, against torch.clamp's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ebsim.errors import ConfigError
from ebsim.precision import apply, find_format, quantize
from hw_models.precision.formats import parse_precision

FORMATS = ["e4m3/unscaled", "mxfp4", "e2m1/unscaled", "nvfp4", "int8/unscaled", "mxfp8/floor"]


def limits(x: Tensor, name: str, axis: int) -> Tensor:
    """The largest magnitude that each element's group can hold: what its rounding makes of values without end."""
    fmt = find_format(name)
    if fmt.scaling == "none":
        return torch.full_like(x, fmt.top)
    moved = x.movedim(axis, -1)
    out = torch.empty_like(moved)
    whole = x.abs().max().item()
    for i in range(0, moved.shape[-1], fmt.block):
        part = moved[..., i : i + fmt.block]
        amax = part.abs().amax(-1, keepdim=True).double()
        if fmt.scaling == "pow2_floor":
            scale = torch.exp2(torch.floor(torch.log2(amax)) - torch.floor(torch.log2(torch.tensor(fmt.top).double())))
        else:  # two levels
            tensor = (torch.tensor(whole, dtype=torch.float32) / (448 * 6)).item()
            own = quantize((amax / 6 / tensor).float(), "e4m3/unscaled")
            scale = own.double() * tensor
        out[..., i : i + fmt.block] = (fmt.top * scale * (1 + 2.0**-15 * (fmt.scaling == "two_level"))).float()
    return out.movedim(-1, axis)


def passed(x: Tensor, name: str, axis: int) -> Tensor:
    """The derivative of torch.clamp at the limits of each group."""
    x = x.detach().clone().requires_grad_()
    top = limits(x.detach(), name, axis)
    return torch.autograd.grad(torch.clamp(x, -top, top).sum(), x)[0]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ["conv", "linear", "transposed"])
def test_gradients_are_those_of_clamp(name: str, kind: str) -> None:
    torch.manual_seed(0)
    make: Any = {
        "conv": lambda: nn.Conv2d(8, 6, 3, padding=1, stride=2),
        "linear": lambda: nn.Linear(40, 6),
        "transposed": lambda: nn.ConvTranspose2d(8, 6, 3, stride=2),
    }[kind]
    layer, fmt = make(), find_format(name)
    big = fmt.top if fmt.scaling == "none" else 1.0
    x = torch.randn(*((9, 40) if kind == "linear" else (9, 8, 6, 6))) * big
    with torch.no_grad():
        layer.weight.mul_(big * 16)
    spec = f"{name} clipped"
    roles = {"weight": spec, "activation": spec, "output": spec}
    # blocks lie otherwise in the other passes: there they stay fp32, so that autograd's products are the layer's own
    table = {"rule": [{"phase": "forward", **roles}]} if fmt.blocked else roles
    net = nn.Sequential(layer)
    apply(net, table, compile=False).set_step(0)
    given = x.clone().requires_grad_()
    y = net(given)
    e = torch.randn_like(y)
    y.backward(e)

    rows = 0 if kind == "transposed" else 1
    qa, qw = quantize(x, name, axis=1), quantize(layer.weight.detach(), name, axis=rows)
    plain = make()
    plain.bias = layer.bias

    def op(a: Tensor, w: Tensor) -> Tensor:
        return torch.func.functional_call(plain, {"weight": w}, (a,))

    z = op(qa, qw).detach()
    torch.testing.assert_close(y, quantize(z, name, axis=1), rtol=1e-4, atol=1e-4 * big)
    arrived = e * passed(z, name, 1)
    a, w = ((x, layer.weight) if fmt.blocked else (qa, qw))  # fmt: skip
    a, w = a.detach().clone().requires_grad_(), w.detach().clone().requires_grad_()
    grad_a, grad_w, grad_b = torch.autograd.grad(op(a, w), (a, w, layer.bias), arrived)
    inside_a, inside_w = passed(x, name, 1), passed(layer.weight, name, rows)
    torch.testing.assert_close(given.grad, grad_a * inside_a, rtol=1e-3, atol=1e-3 * big)
    torch.testing.assert_close(layer.weight.grad, grad_w * inside_w, rtol=1e-3, atol=1e-3 * big)
    torch.testing.assert_close(layer.bias.grad, grad_b, rtol=1e-4, atol=1e-4)
    assert (given.grad[inside_a == 0] == 0).all() and (layer.weight.grad[inside_w == 0] == 0).all()
    assert (inside_a == 0).any() and (passed(z, name, 1) == 0).any() and (inside_w == 0).any()


@pytest.mark.parametrize("name", ["e4m3/unscaled", "e2m1/unscaled"])
def test_pointwise_modules_clip_too(name: str) -> None:
    top = find_format(name).top
    net = nn.Sequential(nn.ReLU())
    apply(net, {"pointwise": f"{name} clipped"}, compile=False).set_step(0)
    x = torch.tensor([[-1.0, 0.5 * top, top, 1.001 * top, 3 * top, float("inf")]], requires_grad=True)
    net(x).sum().backward()
    assert x.grad.tolist() == [[0.0, 1.0, 1.0, 0.0, 0.0, 1.0]]  # Inf stays what it is: it is not clipped


def test_without_the_word_the_derivative_stays_one() -> None:
    net = nn.Sequential(nn.ReLU())
    apply(net, {"pointwise": "e4m3/unscaled"}, compile=False).set_step(0)
    x = torch.tensor([[500.0]], requires_grad=True)
    net(x).sum().backward()
    assert x.grad.item() == 1.0


def test_only_roles_that_a_gradient_flows_back_through() -> None:
    rule = {"phase": "weight_gradient", "activation": "e4m3 clipped"}
    for table, words in (
        ({"error": "e4m3 clipped"}, "derivative of rounding"),
        ({"rule": [rule]}, "derivative of rounding"),
        ({"weight": "fp32 clipped"}, "clips nothing"),
    ):
        with pytest.raises(ConfigError, match=words):
            apply(nn.Sequential(nn.Linear(3, 3)), table)


def test_passes_that_differ_in_the_word_alone_share_a_copy_and_the_record_says_so() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    table = {"activation": "e4m3", "rule": [{"phase": "forward", "activation": "e4m3 clipped"}]}
    record = apply(net, table, compile=False).record()
    assert record["quantise"] == {"forward": {"activation": "nearest"}}
    assert record["default"]["clipped"] == ["activation"]
    assert parse_precision(record).default.clipped == ("activation",)
