"""Every format against an oracle that shares no code with it, bit for bit."""

from __future__ import annotations

import gfloat
import gfloat.formats
import numpy as np
import pytest
import torch

from ebsim.errors import ConfigError
from ebsim.precision import find_format, list_formats, quantize
from tests.precision import oracles

UNSCALED = {"bf16": "bf16", "fp16": "fp16", "e4m3": "e4m3/unscaled", "e5m2": "e5m2/unscaled"}


def same(got: torch.Tensor, expected: np.ndarray) -> bool:
    """Equal bits, any NaN equal to any NaN."""
    g = got.numpy()
    both_nan = np.isnan(g) & np.isnan(expected)
    return bool(np.all((g.view(np.uint32) == expected.astype(np.float32).view(np.uint32)) | both_nan))


@pytest.fixture(scope="module")
def floats() -> np.ndarray:
    return oracles.interesting_floats()


@pytest.mark.parametrize("name", UNSCALED)
def test_bits_equal_ml_dtypes(name: str, floats: np.ndarray) -> None:
    assert same(quantize(torch.from_numpy(floats), UNSCALED[name]), oracles.cast(floats, name))


@pytest.mark.parametrize("name", ["e4m3", "e5m2"])
def test_gfloat_agrees(name: str, floats: np.ndarray) -> None:
    info = {"e4m3": gfloat.formats.format_info_ocp_e4m3, "e5m2": gfloat.formats.format_info_ocp_e5m2}
    sample = floats[np.isfinite(floats)][::37].astype(np.float64)
    expected = gfloat.round_ndarray(info[name], sample, sat=True)
    got = quantize(torch.from_numpy(sample.astype(np.float32)), UNSCALED[name])
    assert np.array_equal(got.numpy().astype(np.float64), expected)


def test_fp8_scale_is_the_smallest_power_of_two_that_does_not_clip() -> None:
    for amax, s in [(448.0, 1.0), (448.0001, 2.0), (224.0, 0.5), (1.0, 2.0**-8), (3e-6, 2.0**-27)]:
        x = torch.linspace(-amax, amax, 1001)
        expected = oracles.cast(x.numpy() / s, "e4m3") * s
        assert same(quantize(x, "e4m3"), expected), amax


def test_int8_midpoints_and_random_rows_equal_integer_arithmetic() -> None:
    middle = np.arange(-126.5, 127, 1, dtype=np.float32)
    near = [np.nextafter(middle, np.float32(d)) for d in (np.inf, -np.inf)]
    x = np.concatenate([middle, *near, [127, -127, 0.25]]).astype(np.float32)
    assert same(quantize(torch.from_numpy(x), "int8"), np.array(oracles.int8(x.tolist())))
    rng = np.random.default_rng(1)
    for power in (-60, -9, 0, 13, 60):
        row = (rng.standard_normal(300) * 2.0**power).astype(np.float32)
        assert same(quantize(torch.from_numpy(row), "int8"), np.array(oracles.int8(row.tolist())))


def test_int8_per_channel_and_bfp8_take_one_scale_per_slice_of_dim_0() -> None:
    rng = np.random.default_rng(2)
    x = (rng.standard_normal((5, 3, 4, 4)) * 10.0 ** np.arange(-3, 2)[:, None, None, None]).astype(np.float32)
    for fmt, oracle in [("int8/row", oracles.int8), ("int8/channel", oracles.int8), ("bfp8", oracles.block)]:
        expected = np.array([oracle(row) for row in x.reshape(5, -1).tolist()]).reshape(x.shape)
        assert same(quantize(torch.from_numpy(x), fmt), expected), fmt


def test_bfp8_midpoints() -> None:
    middle = np.arange(-127.5, 128, 1, dtype=np.float32)
    near = [np.nextafter(middle, np.float32(d)) for d in (np.inf, -np.inf)]
    x = np.concatenate([middle, *near]).astype(np.float32)[None]
    assert same(quantize(torch.from_numpy(x), "bfp8"), np.array([oracles.block(x[0].tolist())]))


@pytest.mark.parametrize("name", ["mxfp8", "mxfp8_e5m2", "mxint8"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mx_follows_the_specification(name: str, axis: int) -> None:
    """OCP MX 1.0, section 6.3: X = 2^(floor(log2 amax) - emax of the element), P = element cast of V / X."""
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((33, 70, 2)) * np.exp(rng.standard_normal((33, 70, 2)) * 3)).astype(np.float32)
    element, emax = {"mxfp8": ("e4m3", 8), "mxfp8_e5m2": ("e5m2", 15), "mxint8": ("int8", 0)}[name]
    expected = np.empty_like(x)
    moved, out = np.moveaxis(x, axis, -1), np.moveaxis(expected, axis, -1)
    for index in np.ndindex(moved.shape[:-1]):
        for start in range(0, moved.shape[-1], 32):
            v = moved[index][start : start + 32]
            scale = np.exp2(np.floor(np.log2(np.abs(v).max().astype(np.float64))) - emax)
            if element == "int8":  # fixed point with 6 fraction bits, symmetric
                p = np.clip(np.rint(v / scale * 64), -127, 127) / 64
            else:
                p = oracles.cast((v / scale).astype(np.float32), element)
            out[index][start : start + 32] = p * scale
    assert same(quantize(torch.from_numpy(x), name, axis=axis), expected)


def test_mx_example_of_gfloat() -> None:
    """gfloat's MX block, computed from its own description of the format."""
    block = np.random.default_rng(4).standard_normal(32).astype(np.float32)
    info = gfloat.formats.format_info_mxfp8_e4m3
    scale = gfloat.compute_scale_amax(info.etype.emax, block)
    expected = gfloat.quantize_block(info, block.astype(np.float64), lambda *_: scale)
    assert same(quantize(torch.from_numpy(block[None]), "mxfp8"), expected[None])


ROWS = {
    "nan": [float("nan"), 1.0, -2.0],
    "inf": [float("inf"), 1.0, -2.0],
    "-inf": [float("-inf"), 1.0, -2.0],
    "zeros": [0.0, -0.0, 0.0],
    "subnormal": [1e-45, -1e-45, 0.0],
    "largest": [3.4028234e38, -3.4028234e38, 1.0],
}


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("name", list_formats())
def test_non_finite_values_and_extremes(name: str, rounding: str) -> None:
    for case, row in ROWS.items():
        x = torch.tensor([row])
        y = quantize(x, name, rounding=rounding)
        assert torch.equal(torch.isfinite(x), torch.isfinite(y)), case  # finite stays finite
        assert torch.equal(y[torch.isinf(x)], x[torch.isinf(x)]), case
        if case in ("nan", "inf", "-inf"):  # and does not disturb its neighbours
            alone = quantize(x[:, 1:], name)
            far = 0.02 if rounding == "stochastic" else 0.0
            assert (y[:, 1:] - alone).abs().max() <= far, case
        if case == "zeros":
            assert torch.equal(torch.signbit(y), torch.signbit(x)) or rounding == "stochastic"
            assert not y.any()


@pytest.mark.parametrize("name", list_formats())
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_shape_strides_and_memory_format(name: str, rounding: str) -> None:
    x = torch.randn(4, 6, 5, 3)
    want = quantize(x, name, rounding=rounding)
    last = quantize(x.contiguous(memory_format=torch.channels_last), name, rounding=rounding)
    assert last.is_contiguous(memory_format=torch.channels_last) and torch.equal(last, want)
    view = torch.randn(4, 6, 5, 6)[..., ::2]
    view.copy_(x)
    assert torch.equal(quantize(view, name, rounding=rounding), want)
    for shape in [(), (1,), (7,), (0, 3), (1, 1, 1, 1), (2, 3, 4)]:
        assert quantize(torch.randn(shape), name, rounding=rounding).shape == shape


def test_wrong_names_say_what_is_near() -> None:
    with pytest.raises(ConfigError, match=r"'e4mm3'.*did you mean 'e4m3'"):
        quantize(torch.ones(2), "e4mm3")
    with pytest.raises(ConfigError, match="variant"):
        find_format("int8/rows")
    with pytest.raises(ConfigError, match="nearest or stochastic"):
        quantize(torch.ones(2), "int8", rounding="up")
    with pytest.raises(TypeError, match="float64"):
        quantize(torch.ones(2).double(), "int8")
