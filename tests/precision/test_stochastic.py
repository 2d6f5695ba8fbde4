"""Stochastic rounding and its noise: right in the mean, independent along every axis of the key."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebsim.precision import quantize
from ebsim.precision.noise import keys, uniform


def draw(n: int, step: int = 0, layer: str = "a", seed: int = 0) -> torch.Tensor:
    index = torch.arange(n, dtype=torch.int32)
    key = torch.tensor(keys(seed, step, layer, "error"), dtype=torch.int32)
    return uniform(index[:1], index, key)[0].double()


def test_noise_equals_the_hash_computed_with_unbounded_integers() -> None:
    """An oracle in Python integers: two rounds of xor-shift and multiply modulo 2^32."""
    key = keys(3, 5, "layer1.0.conv1", "activation")
    rows = torch.tensor([0, 1000, 2**31 - 9], dtype=torch.int32)
    cols = torch.tensor([0, 1, 7, 70000], dtype=torch.int32)
    got = uniform(rows, cols, torch.tensor(key, dtype=torch.int32))
    for i, row in enumerate(rows.tolist()):
        for j, col in enumerate(cols.tolist()):
            h = (row + col + key[0]) % 2**32
            h = ((h ^ h >> 16) * 0x7FEB352D + key[1]) % 2**32
            h = ((h ^ h >> 15) * 0x846CA68B) % 2**32
            assert got[i, j].item() == (h >> 8) / 2**24


def test_noise_is_uniform_and_independent() -> None:
    n = 1 << 20
    u = draw(n)
    assert u.min() >= 0 and u.max() < 1
    z = (u.mean() - 0.5) * (12 * n) ** 0.5
    assert abs(z) < 4
    histogram = torch.histc(u.float(), 256, 0, 1).double()
    chi2 = ((histogram - n / 256) ** 2 / (n / 256)).sum()
    assert abs(chi2 - 255) < 4.5 * (2 * 255) ** 0.5
    others = {
        "neighbour": (u[:-1], u[1:]), "row of 64": (u[:-64], u[64:]), "step": (u, draw(n, step=1)),
        "layer": (u, draw(n, layer="b")), "seed": (u, draw(n, seed=1)),
    }  # fmt: skip
    for name, (a, b) in others.items():
        r = np.corrcoef(a.numpy(), b.numpy())[0, 1]
        assert abs(r) * n**0.5 < 4.5, name


@given(st.integers(0, 2**40), st.integers(0, 2**31), st.text(max_size=8), st.sampled_from(["error", "weight"]))
def test_keys_are_32_bits_and_differ_by_step(seed: int, step: int, layer: str, role: str) -> None:
    here, there = keys(seed, step, layer, role), keys(seed, step + 1, layer, role)
    assert here != there and all(-(2**31) <= k < 2**31 for k in (*here, *there))


@pytest.mark.parametrize("fmt", ["bf16", "e4m3", "e5m2", "int8", "bfp8", "mxint8"])
@pytest.mark.parametrize("magnitude", [1e-6, 0.013, 0.7, 11.0])
def test_the_mean_is_right(fmt: str, magnitude: float) -> None:
    """Over steps, the mean of a rounded random tensor is the tensor, within the error of a binomial draw."""
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)) * magnitude
    n = 400
    draws = torch.stack([quantize(x, fmt, rounding="stochastic", step=i) for i in range(n)]).double()
    low, high = draws.amin(0), draws.amax(0)
    up = (x - low) / (high - low)
    # rare outcomes are not normal; the largest value of a group may be clipped by up to half a step (floor scales)
    chosen = (up > 0.05) & (up < 0.95) & (x.abs() < x.abs().amax(1, keepdim=True) * 0.98)
    z = ((draws.mean(0) - x) / ((high - low) * (up * (1 - up) / n).sqrt()))[chosen]
    assert len(z) > 100 and z.abs().max() < 4.5
    assert abs(z.mean()) * len(z) ** 0.5 < 4
