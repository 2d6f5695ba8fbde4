"""E2M1, MX of four, six and eight bits, NVFP4, tiles and scale rules against tables of codes and fractions."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ebsim.errors import ConfigError
from ebsim.precision import apply, find_format, quantize
from ebsim.precision.quantization import hadamard
from tests.oracle import formats as oracle

FLOATS = {
    "e2m1": (2, 1),
    "e3m2": (3, 2),
    "e2m3": (2, 3),
    "e3m4": (3, 4),
    "e4m3": (4, 3),
    "e5m2": (5, 2),
    "e6m5": (6, 5),
}
RULES = ["floor", "ceil", "even", "rceil", "absmax"]


def wild(*shape: int, seed: int = 0, spread: float = 2.0) -> Tensor:
    """Values over many binades, ties and exact powers of two among them."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=g) * torch.exp2(torch.randn(shape, generator=g) * spread)
    ties = torch.randint(-24, 25, shape, generator=g) / 8.0
    return torch.where(torch.rand(shape, generator=g) < 0.3, ties, x)


def same(got: Tensor, expected: np.ndarray) -> bool:
    return bool((got.numpy().view(np.uint32) == expected.astype(np.float32).view(np.uint32)).all())


@pytest.mark.parametrize("name", FLOATS)
def test_unscaled_floats_are_the_nearest_code_of_their_table(name: str) -> None:
    exponent, mantissa = FLOATS[name]
    table = oracle.float_table(exponent, mantissa)
    codes = np.array([float(v) for v in table])
    middle = (codes[1:] + codes[:-1]) / 2
    x = np.concatenate([codes, middle, middle * 1.0001, middle * 0.9999, [codes[-1] * 3], wild(2000).abs().numpy()])
    x = np.concatenate([x, -x]).astype(np.float32)
    expected = [np.copysign(float(oracle.nearest(abs(Fraction(float(v))), table)), v) for v in x]
    assert same(quantize(torch.from_numpy(x), f"{name}/unscaled"), np.array(expected))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("element", ["e2m1", "e3m2", "e2m3", "e4m3", "e5m2", "int"])
def test_every_scale_rule_is_that_of_its_definition(element: str, rule: str) -> None:
    exponent, mantissa = FLOATS.get(element, (0, 6))
    table = oracle.integer_table(8) if element == "int" else oracle.float_table(exponent, mantissa)
    name = {"e2m1": "mxfp4", "e3m2": "mxfp6_e3m2", "e2m3": "mxfp6_e2m3", "e4m3": "mxfp8", "e5m2": "mxfp8_e5m2"}
    x = wild(40, 96, seed=5)
    x[0, :32] = torch.tensor([2.0**k for k in range(-16, 16)])
    got = quantize(x, f"{name.get(element, 'mxint8')}/{rule}")
    expected = [
        [v for i in range(0, 96, 32) for v in oracle.block(row[i : i + 32], table, rule, mantissa)]
        for row in x.tolist()
    ]
    assert same(got, np.array(expected))


@pytest.mark.parametrize("shape, axis", [((5, 40), 1), ((33, 7), 0), ((4, 20, 3), 1)])
def test_nvfp4_has_two_levels_of_scales(shape: tuple[int, ...], axis: int) -> None:
    x = wild(*shape, seed=7)
    moved = x.movedim(axis, -1)
    rows = moved.reshape(-1, moved.shape[-1]).tolist()
    blocks = [row[i : i + 16] for row in rows for i in range(0, len(row), 16)]
    made = iter(oracle.nvfp4(blocks))
    expected = [[v for _ in range(0, len(row), 16) for v in next(made)] for row in rows]
    back = torch.tensor(expected).view(moved.shape).movedim(-1, axis)
    assert same(quantize(x, "nvfp4", axis=axis), back.contiguous().numpy())


@pytest.mark.parametrize("shape, axis", [((9, 160), 1), ((64, 30), 0), ((4, 40, 3, 3), 1)])
@pytest.mark.parametrize("tile", [False, True])
def test_four_over_six_takes_the_scale_with_the_smaller_error(shape: tuple[int, ...], axis: int, tile: bool) -> None:
    x = wild(*shape, seed=11, spread=1.0)
    if tile:  # most of 256 values are small beside the largest one: then 6 is better; evenly spread ones prefer 4
        x[:20] = torch.rand(x[:20].shape, generator=torch.Generator().manual_seed(0)) * 4 - 2
        faces = x.reshape(*shape[:2], -1).movedim(-1, 0)
        cuts = [(f, i, j) for f in range(len(faces)) for i in range(0, shape[0], 16) for j in range(0, shape[1], 16)]
        blocks = [faces[f, i : i + 16, j : j + 16].reshape(-1).tolist() for f, i, j in cuts]
        made, fours = oracle.four_over_six(blocks)
        expected = torch.empty_like(faces)
        for (f, i, j), values in zip(cuts, made, strict=True):
            expected[f, i : i + 16, j : j + 16] = torch.tensor(values).view_as(expected[f, i : i + 16, j : j + 16])
        back = expected.movedim(0, -1).reshape(shape)
    else:
        moved = x.movedim(axis, -1)
        rows = moved.reshape(-1, moved.shape[-1]).tolist()
        blocks = [row[i : i + 16] for row in rows for i in range(0, len(row), 16)]
        made, fours = oracle.four_over_six(blocks)
        values = iter(made)
        lines = [[v for _ in range(0, len(row), 16) for v in next(values)] for row in rows]
        back = torch.tensor(lines).view(moved.shape).movedim(-1, axis)
    got = quantize(x, "nvfp4/16x16/four_over_six" if tile else "nvfp4/four_over_six", axis=axis)
    assert same(got, back.contiguous().numpy())
    assert fours > 0 and (tile or fours < len(blocks))
    if not tile:  # (the other scale of the whole tensor also moves E4M3 scales, which few blocks do not even out)
        assert (got - x).square().sum() < (quantize(x, "nvfp4", axis=axis) - x).square().sum()


def test_four_over_six_rounds_at_random_with_the_scale_that_is_better_to_nearest() -> None:
    """Its choice is not the noise's, so that it is unbiased; other draws are on the same two grids."""
    x = wild(40, 64, seed=2, spread=1.0)
    draws = torch.stack([quantize(x, "nvfp4/four_over_six", rounding="stochastic", step=s) for s in range(400)])
    draws, nearest = draws.double(), quantize(x, "nvfp4/four_over_six").double()
    low, high = draws.amin(0), draws.amax(0)
    assert ((nearest == low) | (nearest == high)).all()
    two = ((draws == low) | (draws == high)).all()
    assert two  # with scales chosen anew in each draw there would be more than two
    up = (x - low) / (high - low)
    usable = (up > 0.05) & (up < 0.95)
    z = ((draws.mean(0) - x) / ((high - low) * (up * (1 - up) / 400).sqrt()))[usable]
    assert len(z) > 500 and z.abs().max() < 5


def test_four_over_six_is_for_blocks_of_e2m1() -> None:
    for wrong in ("mxfp8/four_over_six", "e2m1/four_over_six"):
        with pytest.raises(ConfigError, match="E2M1"):
            find_format(wrong)


def test_a_block_whose_scale_rounds_to_zero_is_lost_and_nothing_is_not_a_number() -> None:
    x = torch.full((2, 16), 1e-9)
    x[1] = 100.0
    for rounding in ("nearest", "stochastic"):
        y = quantize(x, "nvfp4", rounding=rounding)
        assert not y[0].any() and torch.equal(y[1], x[1].float()) is (y[1] == 100).all().item()
    assert not quantize(torch.zeros(3, 20), "nvfp4").any()
    spoilt = torch.randn(2, 32)
    spoilt[0, 3], spoilt[1, 5] = float("nan"), float("inf")
    y = quantize(spoilt, "nvfp4")
    assert torch.equal(y.isfinite(), spoilt.isfinite())


@pytest.mark.parametrize("fmt, high, wide", [("e4m3/absmax/4x6", 4, 6), ("nvfp4/16x16", 16, 16), ("bfp8/3x5", 3, 5)])
@pytest.mark.parametrize("shape", [(7, 13), (20, 33, 3, 3)])
def test_tiles_share_a_scale_over_two_dimensions(fmt: str, high: int, wide: int, shape: tuple[int, ...]) -> None:
    """A tile alone, cut out and quantized as one row, is what it becomes in the whole tensor."""
    x = wild(*shape, seed=3, spread=1.0)
    got = quantize(x, fmt)
    plain = find_format(fmt.split("/")[0] + ("/absmax" if "absmax" in fmt else ""))
    if plain.scaling == "two_level":
        blocks, places = [], []
        for index in np.ndindex(*shape[2:]):
            face = x[(slice(None), slice(None), *index)]
            for i in range(0, shape[0], high):
                for j in range(0, shape[1], wide):
                    blocks.append(face[i : i + high, j : j + wide].reshape(-1).tolist())
                    places.append((i, j, index))
        for made, (i, j, index) in zip(oracle.nvfp4(blocks), places, strict=True):
            part = got[(slice(i, i + high), slice(j, j + wide), *index)]
            assert torch.equal(part.reshape(-1), torch.tensor(made))
        return
    for index in np.ndindex(*shape[2:]):
        for i in range(0, shape[0], high):
            for j in range(0, shape[1], wide):
                key = (slice(i, i + high), slice(j, j + wide), *index)
                assert torch.equal(got[key], quantize(x[key].reshape(1, -1), plain).view_as(got[key]))
    for rounding in ("nearest", "stochastic"):
        last = quantize(x.transpose(0, 1).contiguous().transpose(0, 1), fmt, rounding=rounding)
        assert torch.equal(last, quantize(x, fmt, rounding=rounding))


@pytest.mark.parametrize("fmt", ["mxfp4", "nvfp4", "e2m1", "mxfp6_e2m3", "e4m3/absmax/8"])
def test_stochastic_rounding_goes_to_a_neighbour_and_is_unbiased(fmt: str) -> None:
    x = torch.rand(64, 32, generator=torch.Generator().manual_seed(1)) * 5.9
    x[:, ::16] = 6.0  # the scale is what it is for the largest code
    draws = torch.stack([quantize(x, fmt, rounding="stochastic", step=s) for s in range(300)]).double()
    low, high = draws.amin(0), draws.amax(0)
    up = (x - low) / (high - low)
    usable = (up > 0.05) & (up < 0.95)
    z = ((draws.mean(0) - x) / ((high - low) * (up * (1 - up) / 300).sqrt()))[usable]
    assert len(z) > 500 and z.abs().max() < 5 and abs(z.mean()) * len(z) ** 0.5 < 4


def test_names_of_variants_and_floats() -> None:
    assert find_format("e2m1/unscaled") == find_format("e2m1/unscaled")  # two roles may have it
    assert find_format("e3m4").bits == 8 and find_format("e3m4").top == (2 - 1 / 16) * 2.0**4
    assert find_format("e4m3/absmax/128x128").describe() == {
        "bits": 8, "mac": "fp:4,3", "scale_bits": 32, "block": 16384,
    }  # fmt: skip
    for wrong, words in {"e9m1": "exponent bits", "e4m3/even/33y": "tile", "mxfp4/up": "floor, ceil, even"}.items():
        with pytest.raises(ConfigError, match=re.escape(words)):
            find_format(wrong)


def test_the_hadamard_transform_is_sylvesters_matrix_with_random_signs() -> None:
    for n in (16, 48, 7, 1):
        x = torch.randn(n, 3, 2, generator=torch.Generator().manual_seed(n))
        expected, start = torch.empty_like(x, dtype=torch.float64), 0
        for size in (16, 8, 4, 2, 1):
            while n - start >= size:
                matrix = torch.tensor(oracle.hadamard(size), dtype=torch.float64) / size**0.5
                sign = torch.tensor(hadamard.signs(4)[:size], dtype=torch.float64)
                part = x[start : start + size].double()
                expected[start : start + size] = torch.einsum("ij,j...->i...", matrix * sign, part)
                start += size
        torch.testing.assert_close(hadamard.transform(x, 4), expected.float(), rtol=1e-5, atol=1e-5)
    assert set(hadamard.signs(4)) == {1.0, -1.0} and hadamard.signs(4) != hadamard.signs(5)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3)
        self.conv = nn.Conv2d(8, 20, 3, stride=2, padding=1, groups=2, bias=True)
        self.last = nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.conv(self.first(x)).mean((2, 3)))


@pytest.mark.parametrize("layer", ["conv", "linear"])
def test_nvfp4_trains_as_its_paper_says(layer: str) -> None:
    """Forward and backward of one layer by plain autograd over tensors that are rounded by hand."""
    torch.manual_seed(1)
    plain = nn.Conv2d(20, 24, 3, padding=1) if layer == "conv" else nn.Linear(20, 24)
    x = torch.randn(18, 20, 5, 5) if layer == "conv" else torch.randn(18, 20)
    table = {
        "weight": "nvfp4/16x16", "activation": "nvfp4", "error": "nvfp4 stochastic",
        "rule": [{"phase": "weight_gradient", "activation": "nvfp4 hadamard", "error": "nvfp4 hadamard stochastic"}],
    }  # fmt: skip
    net = nn.Sequential(plain)
    placement = apply(net, table, seed=9, compile=False)
    placement.set_step(3)
    given = x.clone().requires_grad_()
    y = net(given)
    e = torch.randn_like(y)
    y.backward(e)

    def op(a: Tensor, w: Tensor) -> Tensor:
        return nn.functional.conv2d(a, w, padding=1) if layer == "conv" else nn.functional.linear(a, w)

    def gradients(a: Tensor, w: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
        a, w = a.detach().requires_grad_(), w.detach().requires_grad_()
        return torch.autograd.grad(op(a, w), (a, w), error)

    key = {"seed": 9, "step": 3, "layer": ":0", "role": "error", "rounding": "stochastic"}
    qw = quantize(plain.weight.detach(), "nvfp4/16x16")
    bias = plain.bias.detach().view(1, -1, *[1] * (y.dim() - 2))
    torch.testing.assert_close(y, op(quantize(x, "nvfp4", axis=1), qw) + bias, rtol=1e-5, atol=1e-5)
    grad_a, _ = gradients(x, qw, quantize(e, "nvfp4", axis=1, **key))
    torch.testing.assert_close(given.grad, grad_a, rtol=1e-5, atol=1e-5)
    ha, he = hadamard.transform(x, 9), hadamard.transform(e, 9)
    _, grad_w = gradients(quantize(ha, "nvfp4", axis=0), qw, quantize(he, "nvfp4", axis=0, **key))
    torch.testing.assert_close(plain.weight.grad, grad_w, rtol=1e-5, atol=1e-4)
    unrounded = gradients(ha, qw, he)[1]
    torch.testing.assert_close(unrounded, gradients(x, qw, e)[1], rtol=1e-3, atol=1e-3)  # the transform alone: nothing


def test_a_transform_of_one_operand_alone_is_refused() -> None:
    rule = {"phase": "weight_gradient", "activation": "nvfp4 hadamard", "error": "nvfp4"}
    with pytest.raises(ConfigError, match="alone would change the product"):
        apply(Net(), {"rule": [rule]})
    with pytest.raises(ConfigError, match="in a rule with phase"):
        apply(Net(), {"activation": "nvfp4 hadamard"})


@pytest.mark.parametrize("name", ["nvfp4", "nvfp4_four_over_six", "mxfp4", "mxfp6", "mxint8", "fp8_block"])
def test_the_new_presets_train(name: str) -> None:
    net = Net()
    placement = apply(net, name, compile=False)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    x, y = torch.randn(20, 3, 9, 9), torch.randint(0, 4, (20,))
    losses = []
    for step in range(12):
        placement.set_step(step)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
