"""Stochastic rounding and its noise: right in the mean, independent along every axis of the key."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebsim.precision import quantize
from ebsim.precision.quantization.counter_rng import COLUMNS, keyed, keys, mixed, uniform

M1, M2 = 0x7FEB352D, 0x846CA68B


def draw(rows: int, cols: int, step: int = 0, layer: str = "a", seed: int = 0) -> torch.Tensor:
    first = mixed(torch.arange(rows, dtype=torch.int32) * cols)
    offsets = mixed(torch.arange(cols, dtype=torch.int32) + COLUMNS)
    key = keys(seed, step, layer, "error")
    return uniform(keyed(first, key), keyed(offsets, key)).double()


def full_hash(i: int) -> int:
    h = ((i ^ i >> 16) * M1) % 2**32
    h = ((h ^ h >> 15) * M2) % 2**32
    return (h ^ h >> 16) % 2**31


def signed(n: int) -> int:
    return (n + 2**31) % 2**32 - 2**31


def test_noise_equals_the_hash_computed_with_unbounded_integers() -> None:
    """An oracle in Python integers: arithmetic modulo 2^32, signed where a shift copies the sign."""
    key = keys(3, 5, "layer1.0.conv1", "activation")
    rows = torch.tensor([0, 1000, 2**31 - 9], dtype=torch.int32)
    cols = torch.tensor([0, 1, 7, 70000], dtype=torch.int32)
    got = uniform(keyed(mixed(rows), key), keyed(mixed(cols), key))
    for i, row in enumerate(rows.tolist()):
        for j, col in enumerate(cols.tolist()):
            h = signed(((full_hash(row) * key[0] + key[1]) | 1) * ((full_hash(col) * key[0] + key[1]) | 1))
            h = ((h ^ h >> 15) * M2) % 2**31
            assert got[i, j].item() == (h >> 7) / 2**24


def independent(a: torch.Tensor, b: torch.Tensor, what: str) -> None:
    """No correlation, and a flat joint distribution over 16 x 16 boxes: a hash can fail one and pass the other."""
    a, b = a.flatten(), b.flatten()
    assert abs(np.corrcoef(a.numpy(), b.numpy())[0, 1]) * len(a) ** 0.5 < 4.5, what
    boxes = torch.bincount(((a * 16).long() * 16 + (b * 16).long()), minlength=256).double()
    expected = len(a) / 256
    chi2 = ((boxes - expected) ** 2 / expected).sum()
    assert abs(chi2 - 255) < 5 * (2 * 255) ** 0.5, what


def test_noise_is_uniform_and_independent() -> None:
    rows, cols = 128, 8192
    u, n = draw(rows, cols), rows * cols
    assert u.min() >= 0 and u.max() < 1
    z = (u.mean() - 0.5) * (12 * n) ** 0.5
    assert abs(z) < 4
    histogram = torch.histc(u.float(), 256, 0, 1).double()
    chi2 = ((histogram - n / 256) ** 2 / (n / 256)).sum()
    assert abs(chi2 - 255) < 4.5 * (2 * 255) ** 0.5
    independent(u[:, :-1], u[:, 1:], "neighbour")
    independent(u[:, :-64], u[:, 64:], "64 further")
    independent(u[:-1], u[1:], "next row")
    for what, other in {"step": {"step": 1}, "layer": {"layer": "b"}, "seed": {"seed": 1}}.items():
        independent(u, draw(rows, cols, **other), what)  # type: ignore[arg-type]


def test_two_given_elements_are_independent_over_the_steps() -> None:
    steps = 4096
    u = torch.stack([draw(4, 24, step=i) for i in range(steps)]).view(steps, -1)
    r = np.corrcoef(u.numpy(), rowvar=False)
    off = r[~np.eye(len(r), dtype=bool)]
    assert np.abs(off).max() * steps**0.5 < 5.2  # 4,560 pairs
    assert abs(off.std() * steps**0.5 - 1) < 0.05


def pairs(count: int, size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of different indices below `size`: half of them at random, half that differ in one bit."""
    g = torch.Generator().manual_seed(seed)
    one = torch.randint(0, size, (count,), generator=g)
    other = torch.randint(0, size, (count,), generator=g)
    bits = 1 << torch.randint(0, size.bit_length() - 1, (count // 2,), generator=g)
    other[: count // 2] = one[: count // 2] ^ bits
    usable = (one != other) & (other < size)
    return one[usable], other[usable]


def no_correlation(a: torch.Tensor, b: torch.Tensor, what: str) -> None:
    """Outcomes of rounding one half up or down, [repetitions, pairs], uncorrelated in every pair."""
    z = ((2.0 * a - 1) * (2.0 * b - 1)).sum(0) / len(a) ** 0.5
    assert len(z) > 4000, what
    assert z.abs().max() < 5, what
    assert abs(z.std() - 1) < 0.05, what


def test_random_pairs_of_elements_are_independent_over_the_steps() -> None:
    """Many index differences, not neighbours: one multiplying round leaves some pairs correlated for ever."""
    one, other = pairs(10_000, 25_088, seed=1)
    x = torch.full((1, 25_088), 0.5)
    ups = torch.stack([quantize(x, "int8/unscaled", rounding="stochastic", step=s)[0] for s in range(800)])
    no_correlation(ups[:, one], ups[:, other], "elements of a row")
    assert abs((ups.mean() - 0.5) * 2 * ups.numel() ** 0.5) < 4.5
    known = (ups[:, 1815] * 2 - 1) * (ups[:, 18558] * 2 - 1)  # correlated by -0.77 before the columns had keys
    assert abs(known.mean()) * len(known) ** 0.5 < 4.5


def test_random_pairs_of_columns_are_independent_over_the_rows_of_one_step() -> None:
    one, other = pairs(10_000, 2048, seed=2)
    ups = quantize(torch.full((1024, 2048), 0.5), "int8/unscaled", rounding="stochastic", step=3)
    no_correlation(ups[:, one], ups[:, other], "columns")
    one, other = pairs(10_000, 1024, seed=4)
    no_correlation(ups.t()[:, one], ups.t()[:, other], "rows")


@pytest.mark.parametrize("what", ["step", "layer", "seed", "role", "call", "first_sample"])
def test_whole_tensors_are_independent_along_the_key(what: str) -> None:
    """4,950 pairs of tensors that differ in one part of the key only, element by element."""
    values = [f"{n}" if what in ("layer", "role") else n * (64 if what == "first_sample" else 1) for n in range(100)]
    x = torch.full((64, 40), 0.5)
    draws = [quantize(x, "int8/unscaled", rounding="stochastic", **{what: v}).flatten() for v in values]
    signs = torch.stack(draws) * 2 - 1
    z = (signs @ signs.t() / signs.shape[1] ** 0.5)[~torch.eye(100, dtype=torch.bool)]
    assert z.abs().max() < 5 and abs(z.std() - 1) < 0.06


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
