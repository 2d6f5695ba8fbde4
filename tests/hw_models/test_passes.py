"""The three contractions against brute-force loops over every multiply-accumulate."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_models.workload.layer import Layer
from hw_models.workload.shapes import shapes
from hw_models.workload.training_passes import passes

CASES = [  # C, K, H, kernel, stride, padding, groups
    (4, 6, 5, 3, 1, 1, 1),
    (4, 6, 5, 3, 2, 1, 2),
    (6, 6, 6, 3, 1, 1, 6),
    (6, 12, 7, 3, 2, 0, 3),
    (3, 5, 6, 1, 2, 0, 1),
    (8, 8, 4, 1, 1, 0, 4),
    (2, 3, 6, 2, 2, 0, 1),
    (5, 7, 1, 1, 1, 0, 1),
]


def conv(c: int, k: int, h: int, r: int, s: int, pad: int, g: int, name: str = "conv", first: bool = False) -> Layer:
    p = (h + 2 * pad - r) // s + 1
    return Layer(
        name,
        "conv",
        macs=k * p * p * (c // g) * r * r,
        inputs=c * h * h,
        outputs=k * p * p,
        weights=k * (c // g) * r * r,
        channels=(c, k),
        size=(h, h),
        out=(p, p),
        kernel=(r, r),
        stride=(s, s),
        groups=g,
        first=first,
    )


def _loops(c: int, k: int, h: int, r: int, s: int, pad: int, g: int, n: int) -> dict[str, int]:
    """Count what every single product touches, padding included (hardware multiplies it)."""
    p = (h + 2 * pad - r) // s + 1
    products, inputs, weights, outputs = 0, set(), set(), set()
    for b, o, y, x, i, v, u in itertools.product(
        range(n), range(k), range(p), range(p), range(c // g), range(r), range(r)
    ):
        products += 1
        channel = (o // (k // g)) * (c // g) + i
        row, col = y * s + v - pad, x * s + u - pad
        if 0 <= row < h and 0 <= col < h:
            inputs.add((b, channel, row, col))
        weights.add((o, i, v, u))
        outputs.add((b, o, y, x))
    return {"macs": products, "inputs": len(inputs), "weights": len(weights), "outputs": len(outputs)}


@pytest.mark.parametrize("case", CASES)
def test_counts_equal_brute_force(case: tuple[int, ...]) -> None:
    n = 2
    table = passes(shapes([conv(*case)]), n)
    seen = _loops(*case, n)
    assert table.macs[:, 0].tolist() == [seen["macs"]] * 3  # forward = input gradient = weight gradient
    assert table.y[0, 0] == table.z[2, 0] == table.y[1, 0] == seen["weights"]
    assert table.z[0, 0] == table.x[1, 0] == table.y[2, 0] == seen["outputs"]
    c, _, h, r, s, _, _ = case
    assert table.z[1, 0] == n * c * h * h  # every input has a gradient, touched or not
    assert seen["inputs"] <= table.x[0, 0] <= n * c * h * h
    if r < s:
        assert table.x[0, 0] == seen["inputs"]  # a strided 1 x 1 reads only what it needs


@pytest.mark.parametrize("case", CASES)
def test_each_contraction_multiplies_out(case: tuple[int, ...]) -> None:
    table = passes(shapes([conv(*case)]), 3)
    assert np.allclose(table.g1 * table.g2 * table.red * table.groups, table.macs)
    assert (table.window >= 1).all()


def test_the_first_layer_has_no_input_gradient() -> None:
    table = passes(shapes([conv(*CASES[0], first=True)]), 2)
    assert table.macs[1, 0] == table.x[1, 0] == table.z[1, 0] == 0 and table.macs[2, 0] > 0


def test_inserted_zeros_cost_stride_squared_where_they_are_multiplied() -> None:
    row = shapes([conv(4, 6, 8, 3, 2, 1, 1)])
    skipping, multiplying = passes(row, 2), passes(row, 2, zero_skip=False)
    assert (multiplying.macs[:, 0] / skipping.macs[:, 0]).tolist() == [1, 4, 1]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(2, 9),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 2]),
    st.integers(1, 3),
)
def test_macs_scale_with_the_batch_only_where_they_should(c: int, k: int, h: int, r: int, s: int, n: int) -> None:
    row = shapes([conv(c, k, max(h, r), r, s, 0, 1)])
    one, many = passes(row, 1), passes(row, n)
    assert np.allclose(many.macs, n * one.macs)
    assert np.allclose(many.y[:2], one.y[:2]) and np.allclose(many.z[2], one.z[2])  # weights do not grow


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("rows", "cols"), [(1, 6), (2, 6), (6, 6), (2, 2), (3, 3)])
def test_a_patch_of_pixels_needs_its_margin(rows: int, cols: int, stride: int) -> None:
    """Distinct inputs under a patch of a 6 x 6 map, 3 x 3 window, against the least of strips and squares."""
    h = 5 * stride + 3
    halo = passes(shapes([conv(1, 1, h, 3, stride, 0, 1)]), 1).halo
    modelled = halo.elements(np.array(float(rows * cols)), np.array(9.0))[0, 0]
    shapes_of_area = {(rows * cols / w, w) for w in (6.0, (rows * cols) ** 0.5) if rows * cols / w <= 6}
    spans = [[max(1.0, n) for n in pair] for pair in shapes_of_area]
    exact = [
        len({y * stride + v for y in range(int(a)) for v in range(3)})
        * len({x * stride + u for x in range(int(b)) for u in range(3)})
        for a, b in spans
        if a == int(a) and b == int(b)
    ]
    assert exact and modelled <= min(exact) and modelled >= (rows * stride) * (cols * stride) * 0.9


def _fetched(rows: int, cols: int, high: int, wide: int, stride: int) -> int:
    """Inputs of a 3 x 3 window that patches fetch on their way down lane after lane, keeping what the last one had."""
    count, before = 0, set[tuple[int, int]]()
    for left, top in itertools.product(range(0, cols, wide), range(0, rows, high)):
        now = {
            (y * stride + v, x * stride + u)
            for y in range(top, top + high)
            for x in range(left, left + wide)
            for v in range(3)
            for u in range(3)
        }
        count += len(now - before) if top else len(now)
        before = now
    return count


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("rows", "cols", "high", "wide"),
    [(12, 12, 4, 4), (12, 12, 3, 3), (12, 2, 3, 2), (12, 3, 12, 3), (12, 12, 12, 12), (12, 12, 1, 1)],
)
def test_a_patch_that_walks_fetches_its_overlap_once(rows: int, cols: int, high: int, wide: int, stride: int) -> None:
    size = ((rows - 1) * stride + 3, (cols - 1) * stride + 3)
    layer = Layer(
        "c",
        "conv",
        macs=rows * cols * 9,
        inputs=size[0] * size[1],
        outputs=rows * cols,
        channels=(1, 1),
        size=size,
        out=(rows, cols),
        kernel=(3, 3),
        stride=(stride, stride),
    )
    halo = passes(shapes([layer]), 1).halo
    pixels, whole = np.array(float(high * wide)), np.array(float(rows * cols))
    walked = halo.walked(pixels, whole, np.array(9.0))[0, 0]
    assert walked == pytest.approx(_fetched(rows, cols, high, wide, stride))
    assert walked <= halo.elements(pixels, np.array(9.0))[0, 0] * whole / pixels * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from([1, 3, 5]),
    st.sampled_from([1, 2]),
    st.floats(1, 900),
    st.floats(1, 900),
    st.integers(1, 3),
)
def test_walking_lies_between_the_block_and_its_patches_alone(
    p: int, q: int, r: int, s: int, a: float, b: float, n: int
) -> None:
    size = ((p - 1) * s + r, (q - 1) * s + r)
    layer = Layer(
        "c",
        "conv",
        macs=p * q * r * r,
        inputs=size[0] * size[1],
        outputs=p * q,
        channels=(1, 1),
        size=size,
        out=(p, q),
        kernel=(r, r),
        stride=(s, s),
    )
    halo = passes(shapes([layer]), n).halo
    whole = np.array(min(max(a, b), p * q * n))
    pixels = np.minimum(min(a, b), whole)
    for other in (1.0, float(r * r)):
        walked, alone, once = (
            halo.walked(pixels, whole, np.array(other)),
            halo.elements(pixels, np.array(other)),
            halo.elements(whole, np.array(other)),
        )
        assert (walked >= once * (1 - 1e-9)).all()
        assert (walked <= alone * whole / pixels * (1 + 1e-9)).all()


def test_matrix_products_of_a_sequence_count_every_position() -> None:
    row = Layer(
        "fc", "linear", macs=5 * 7 * 3, inputs=35, outputs=15, weights=21, channels=(7, 3), size=(5, 1), out=(5, 1)
    )
    table = passes(shapes([row]), 2)
    assert table.macs[:, 0].tolist() == [210, 210, 210]
    assert (table.g1[0, 0], table.g2[0, 0], table.red[0, 0]) == (10, 3, 7)
