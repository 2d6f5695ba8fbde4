"""What a backend reaches and what not: ranks, shapes, attention, parametrized, lazy, traced, exported networks."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ebsim.errors import ConfigError
from ebsim.precision import apply, quantize, remove
from tests.precision.nets import Small, batch, equal, gradients

EVERY = {"weight": "bf16", "activation": "e4m3", "error": "e5m2", "output": "bf16", "activation_gradient": "e4m3"}


def by_hand(layer: nn.Module, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y, dL/da, dL/dw of one layer under EVERY, by autograd on rounded copies of the plain layer."""
    plain = copy.deepcopy(layer)
    weight, bias = quantize(plain.weight.detach(), "bf16"), plain.bias
    plain.weight = nn.Parameter(weight)
    plain.bias = None
    a = quantize(x, "e4m3").requires_grad_()
    y = plain(a)
    y.backward(quantize(e, "e5m2"))
    shape = (-1,) if isinstance(layer, nn.Linear) else (1, -1, *[1] * (x.dim() - 2))
    return quantize(y.detach() + bias.detach().view(shape), "bf16"), quantize(a.grad, "e4m3"), plain.weight.grad


LAYERS = {
    "conv1d": (nn.Conv1d(6, 8, 3, stride=2, padding=1), (4, 6, 11)),
    "conv3d": (nn.Conv3d(2, 4, 3, padding=1, groups=2), (3, 2, 5, 5, 4)),
    "transposed 1d": (nn.ConvTranspose1d(6, 4, 4, stride=2), (4, 6, 7)),
    "transposed 2d": (nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2), (4, 6, 5, 5)),
    "linear on 4-D": (nn.Linear(7, 5), (2, 3, 4, 7)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_every_rank_round_all_three_products(name: str) -> None:
    layer, shape = LAYERS[name]
    torch.manual_seed(0)
    x = torch.randn(shape)
    e = torch.randn_like(layer(x))
    want = by_hand(layer, x, e)
    net = nn.Sequential(copy.deepcopy(layer))
    placement = apply(net, EVERY, compile=False)
    assert list(placement.modules) == ["0"]
    given = x.clone().requires_grad_()
    y = net(given)
    y.backward(e)
    for got, expected in zip((y, given.grad, net[0].weight.grad), want, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-2 if got is y else 1e-4, atol=1e-4)


def test_a_transposed_convolution_has_a_scale_for_each_output_channel() -> None:
    layer = nn.ConvTranspose2d(6, 4, 3, groups=2, bias=False)
    with torch.no_grad():
        layer.weight.mul_(torch.tensor([1.0, 100.0]).view(1, 2, 1, 1))  # outputs 0 and 1 of each group
    net = nn.Sequential(copy.deepcopy(layer))
    apply(net, {"weight": "int8/row"}, compile=False)
    x = torch.randn(2, 6, 5, 5)
    with torch.no_grad():
        for group in range(2):
            for out in range(2):
                part = layer.weight[3 * group : 3 * group + 3, out]
                layer.weight[3 * group : 3 * group + 3, out] = quantize(part.reshape(1, -1), "int8/row").view_as(part)
        torch.testing.assert_close(net(x), layer(x))


UNBATCHED: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Conv2d(3, 4, 3), (3, 8, 8)),
    (nn.Conv1d(3, 4, 3), (3, 8)),
    (nn.ConvTranspose2d(3, 4, 3), (3, 5, 5)),
    (nn.Linear(6, 3), (6,)),
]


@pytest.mark.parametrize("layer, shape", UNBATCHED)
def test_unbatched_input_is_a_batch_of_one(layer: nn.Module, shape: tuple[int, ...]) -> None:
    net = nn.Sequential(copy.deepcopy(layer))
    placement = apply(net, {**EVERY, "activation": "bfp8 stochastic"}, compile=False)
    x = torch.randn(shape)
    placement.set_step(1)
    alone = net(x)
    alone.sum().backward()
    placement.set_step(1)
    assert torch.equal(alone, net(x[None])[0])


def test_mx_blocks_of_a_linear_run_along_what_is_summed() -> None:
    """Inputs forward, outputs backward, every leading dimension in the weight gradient."""
    torch.manual_seed(2)
    layer = nn.Linear(40, 36, bias=False)
    x, e = torch.randn(3, 5, 7, 40), torch.randn(3, 5, 7, 36)
    net = nn.Sequential(copy.deepcopy(layer))
    apply(net, "mxfp8", compile=False)
    apply(net, {"weight": "mxfp8", "activation": "mxfp8", "error": "mxfp8"}, compile=False)
    given = x.clone().requires_grad_()
    y = net(given)
    y.backward(e)
    w = layer.weight.detach()
    forward = quantize(x, "mxfp8", axis=-1) @ quantize(w, "mxfp8", axis=1).t()
    back = quantize(e, "mxfp8", axis=-1) @ quantize(w, "mxfp8", axis=0)
    rows = quantize(e.reshape(-1, 36), "mxfp8", axis=0).t() @ quantize(x.reshape(-1, 40), "mxfp8", axis=0)
    torch.testing.assert_close(y, forward)
    torch.testing.assert_close(given.grad, back)
    torch.testing.assert_close(net[0].weight.grad, rows)


def test_an_axis_is_checked_and_may_be_negative() -> None:
    x = torch.randn(4, 40, 3)
    for rounding in ("nearest", "stochastic"):
        first, second = (quantize(x, "mxfp8", axis=axis, rounding=rounding) for axis in (-2, 1))
        assert torch.equal(first, second)
    for axis in (3, -4):
        with pytest.raises(ConfigError, match="axis"):
            quantize(x, "mxfp8", axis=axis)
    assert quantize(torch.randn(7), "mxfp8").shape == (7,)


def test_one_dimensional_is_about_vectors_only() -> None:
    net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 4), nn.LayerNorm(4))
    net.add_module("embedding", nn.Embedding(5, 4))
    placement = apply(net, {"one_dimensional": "bfp8 stochastic"}, compile=False)
    assert set(placement._update_cells) == {"0.bias", "1.bias", "2.weight", "2.bias"}


def test_attention_is_named_and_its_projection_is_no_last_layer() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.MultiheadAttention(8, 2, batch_first=True))
    placement = apply(net, "fp8", compile=False)
    assert list(placement.modules) == ["0"] and placement.uncovered == ["1", "1.out_proj"]
    assert placement.record()["covered"] == ["0"]


def test_a_transformer_layer_in_evaluation_rounds_as_in_training() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    net = nn.Sequential(copy.deepcopy(layer))
    apply(net, {"weight": "e4m3", "activation": "e4m3"}, compile=False)
    x = torch.randn(3, 5, 8)
    with torch.no_grad():
        trained, evaluated, plain = net.train()(x), net.eval()(x), layer.eval()(x)
    torch.testing.assert_close(trained, evaluated)
    assert not torch.allclose(evaluated, plain, atol=1e-4)
    remove(net)
    assert all(not m._forward_pre_hooks for m in net.modules())


def test_lazy_and_parametrized_layers() -> None:
    with pytest.raises(ConfigError, match="1 is a lazy layer"):
        apply(nn.Sequential(nn.Linear(3, 3), nn.LazyLinear(4)), "fp8")
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 4)))
    apply(net, {"weight": "e4m3"}, compile=False)
    y = net(torch.randn(2, 6))
    y.sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    with pytest.raises(ConfigError, match=r"0\.weight is computed from other parameters"):
        apply(net, "bfp8")


def test_frozen_layers_round_operands_and_have_no_update() -> None:
    model = Small()
    model.body.weight.requires_grad_(False)
    placement = apply(model, "bfp8", compile=False)
    placement.attach(torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9))
    entry = placement.record()["layers"]["body"]
    assert "weight_gradient" not in entry["quantise"] and entry["update"]["stored"] == "fp32"


def test_an_export_is_refused_and_a_trace_warns() -> None:
    model = Small().eval()
    apply(model, "fp8", compile=False)
    x = batch()[0]
    with pytest.raises(Exception, match="exported program would compute without the rounding"):
        torch.export.export(model, (x,))
    with pytest.warns(UserWarning, match="without the rounding of precision 'fp8'"):
        torch.jit.trace(model, (x,), check_trace=False)
    remove(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        torch.export.export(model, (x,))


@pytest.mark.parametrize("name", ["bf16", "bfp8_all", "nvfp4"])
def test_pointwise_modules_round_what_they_hand_on_and_the_gradient_that_arrives(name: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.bn, self.relu = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.bn(self.conv(x)))

    rule = [
        {"layers": ["@activation"], "phase": "input_gradient", "pointwise": "e5m2"},
        {"layers": ["*"], "pointwise": "e4m3"},
    ]
    net = Net()
    apply(net, {"rule": rule}, compile=False)
    x, e = torch.randn(4, 3, 7, 7), torch.randn(4, 8, 5, 5)
    y = net(x)
    y.backward(e)
    plain = Net()
    h = plain.conv(x)
    b = nn.functional.batch_norm(h, None, None, plain.bn.weight, plain.bn.bias, True)
    qb = quantize(b.detach(), "e4m3")
    assert torch.equal(y, quantize(qb.relu(), "e4m3"))
    arriving = quantize(e, "e5m2") * (qb > 0)
    grads = torch.autograd.grad(b, (plain.bn.weight, plain.conv.weight), quantize(arriving, "e4m3"))
    torch.testing.assert_close(net.bn.weight.grad, grads[0])
    torch.testing.assert_close(net.conv.weight.grad, grads[1])
    remove(net)
    assert type(net.bn) is nn.BatchNorm2d
    model = Small()
    apply(model, name, compile=False)
    assert all(torch.isfinite(g).all() for g in gradients(model, *batch()))
    twin = copy.deepcopy(model)
    remove(twin)
    assert equal(gradients(twin, *batch()), gradients(Small(), *batch())) or name == "bfp8_all"
