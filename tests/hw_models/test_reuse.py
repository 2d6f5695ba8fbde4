"""Traffic: bounds, monotony and the silicon and published numbers it must stay near."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hw_models import load, training_cost
from hw_models.accelerator.description import Accelerator
from hw_models.mapping.closed_form import closed
from hw_models.mapping.exhaustive import search
from hw_models.mapping.spatial import sharing
from hw_models.mapping.traffic import Traffic, Widths, compulsory
from hw_models.workload.layer import Layer
from hw_models.workload.shapes import shapes
from hw_models.workload.training_passes import Passes, passes

from .test_passes import conv

CHIP = replace(load("horowitz-45nm"), dims=(1, 1))  # one element: blocks may be as small as a product


def _with_buffer(kib: float, chip: Accelerator = CHIP) -> Accelerator:
    return replace(chip, memories=(replace(chip.memories[0], bits=kib * 8192),))


def _bits(p: Passes, x: float = 16, y: float = 16, z: float = 16, acc: float = 32) -> Widths:
    return Widths(*(np.full((3, 1), float(b)) * np.ones_like(p.macs) for b in (x, y, z, acc)))


layers = st.builds(
    lambda c, k, h, r, s, g: conv(c * g, k * g, max(h, r), r, s, 0, g),
    st.integers(1, 48),
    st.integers(1, 48),
    st.integers(1, 28),
    st.sampled_from([1, 2, 3, 5]),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 1, 2, 8]),
)
widths = st.sampled_from([4.0, 8.0, 16.0, 32.0])


@settings(max_examples=60, deadline=None)
@given(layers, st.integers(1, 64), st.floats(0.5, 4096), widths, widths, widths)
def test_traffic_lies_between_once_and_always(layer: Layer, n: int, kib: float, x: float, y: float, z: float) -> None:
    p = passes(shapes([layer]), n)
    bits = _bits(p, x, y, z, 32)
    least = compulsory(p, bits)
    # every product fetches both operands and its sum
    most = Traffic(p.macs * bits.x, p.macs * bits.y, p.z * bits.z, (p.macs - p.z) * bits.acc)
    for model in (closed, search):
        t = model(p, bits, _with_buffer(kib)).to_dram(CHIP)
        for name in ("x", "y", "z"):
            assert (getattr(t, name) >= getattr(least, name) * (1 - 1e-9)).all(), (model.__name__, name)
            assert (getattr(t, name) <= np.maximum(getattr(most, name), getattr(least, name)) * (1 + 1e-9)).all()
        assert (t.spill <= np.maximum(most.spill, 0) + 1e-6).all()


@settings(max_examples=60, deadline=None)
@given(layers, st.integers(1, 64), st.floats(0.5, 512))
@example(conv(25, 13, 8, 5, 1, 0, 1), 6, 1.0)  # no padding: fewer taps meet an error than the window has
def test_traffic_respects_the_lower_bound(layer: Layer, n: int, kib: float) -> None:
    """2 MACs / sqrt(w M) - 2 M words (Smith et al. 2019 for matrix products; w: window reuse), all words alike."""
    p = passes(shapes([layer]), n)
    bits = _bits(p, 32, 32, 32, 32)
    memory = kib * 8192 / 32
    bound = 2 * p.macs / p.groups / np.sqrt(p.window * memory) - 2 * memory  # groups run one after another
    for model in (closed, search):
        t = model(p, bits, _with_buffer(kib)).to_dram(CHIP)
        assert (t.total / 32 >= bound * p.groups * (1 - 1e-6)).all(), model.__name__


@settings(max_examples=60, deadline=None)
@given(layers, st.integers(1, 64), st.floats(0.5, 1024), st.floats(1.0, 64))
def test_a_larger_buffer_never_moves_more(layer: Layer, n: int, kib: float, factor: float) -> None:
    p = passes(shapes([layer]), n)
    bits = _bits(p)
    small, large = (closed(p, bits, _with_buffer(k)).to_dram(CHIP).total for k in (kib, kib * factor))
    assert (large <= small * (1 + 1e-9)).all()


@settings(max_examples=60, deadline=None)
@given(layers, st.integers(1, 64), st.floats(0.5, 1024), widths, widths, widths, st.integers(0, 3))
def test_more_bits_never_move_less(layer: Layer, n: int, kib: float, x: float, y: float, z: float, which: int) -> None:
    p = passes(shapes([layer]), n)
    few = [x, y, z, 16.0]
    many = [b * (2 if i == which else 1) for i, b in enumerate(few)]
    a, b = (closed(p, _bits(p, *w), _with_buffer(kib)).to_dram(CHIP).total for w in (few, many))
    assert (b >= a * (1 - 1e-9)).all()


def test_everything_on_chip_moves_once() -> None:
    p = passes(shapes([conv(16, 16, 8, 3, 1, 1, 1)]), 2)
    bits = _bits(p)
    for model in (closed, search):
        t = model(p, bits, _with_buffer(1e6)).to_dram(CHIP)
        assert np.allclose(t.total, compulsory(p, bits).total)


@pytest.mark.parametrize(("g1", "g2", "red"), [(12, 6, 10), (5, 3, 7), (8, 8, 9), (1, 1, 3)])
def test_shared_registers_serve_what_a_plain_walk_over_the_array_counts(g1: int, g2: int, red: int) -> None:
    """Dims 4 x 3 x 2 x 2 unroll K, C, pixels, pixels; one weight register along dims 3 and 4, one sum along dim 2."""
    row = Layer(
        "fc",
        "linear",
        macs=g1 * g2 * red,
        inputs=g1 * red,
        outputs=g1 * g2,
        weights=g2 * red,
        channels=(red, g2),
        size=(g1, 1),
        out=(g1, 1),
    )
    p = passes(shapes([row]), 1)
    unroll = {
        "forward": ("K", "C", "pixels", "pixels"),
        "input_gradient": ("C", "K", "pixels", "pixels"),
        "weight_gradient": ("K", "pixels", "C", "C"),
    }
    held: set[tuple[int, ...]] = set()
    sums: set[tuple[int, ...]] = set()
    for i, j, r in np.ndindex(g1, g2, red):
        step = i // 4, j // 4, r // 3
        held.add((*step, j % 4, r % 3))  # a word per step and register: those along pixels are one
        sums.add((*step, j % 4, i % 4))
    x, y, z = sharing(p, (4, 3, 2, 2), unroll, ((), (2, 3), (1,)))
    assert x[0, 0] == 1
    assert p.macs[0, 0] / y[0, 0] == pytest.approx(len(held)) and p.macs[0, 0] / z[0, 0] == pytest.approx(len(sums))


def test_operands_that_skip_the_buffer_last_in_the_registers() -> None:
    """256 x 64 weights in 16 x 16 elements; inputs and sums stream through a buffer too small for either."""
    chip = load("horowitz-45nm")
    small = replace(chip.memories[0], bits=2 * 8192.0, holds=("streaming", "sums"))
    for words, once in ((64, True), (16, False)):
        registers = {**chip.registers, "held": replace(chip.registers["held"], bits=words * 16)}
        bypass = replace(chip, dims=(16, 16), registers=registers, memories=(small,))
        p = passes(shapes([conv(64, 256, 14, 1, 1, 0, 1)]), 1)
        t, least = search(p, _bits(p), bypass).to_dram(bypass), compulsory(p, _bits(p))
        assert bool(np.isclose(t.y[0, 0], least.y[0, 0]) and np.isclose(t.x[0, 0], least.x[0, 0])) is once


@settings(max_examples=20, deadline=None)
@given(layers, st.integers(1, 8), st.floats(0.5, 256))
def test_sliding_never_costs_more(layer: Layer, n: int, kib: float) -> None:
    chip = _with_buffer(kib, load("horowitz-45nm"))
    whole = replace(chip, memories=(replace(chip.memories[0], slides=False),))
    a, b = (training_cost([layer], c, 8, n, "search").total for c in (chip, whole))
    assert a <= b * (1 + 1e-6)


def test_a_shared_register_saves_register_energy_and_nothing_else() -> None:
    unroll = {
        "forward": ("K", "C", "pixels"),
        "input_gradient": ("C", "K", "pixels"),
        "weight_gradient": ("K", "pixels", "C"),
    }
    own = replace(load("horowitz-45nm"), dims=(8, 8, 4), unroll=unroll)
    one = replace(own, registers={**own.registers, "held": replace(own.registers["held"], shared_along=(2,))})
    a, b = (training_cost([conv(16, 32, 8, 3, 1, 1, 1)], chip, 8, 4) for chip in (own, one))
    held = a.by_constant["registers.held"]
    assert b.by_constant["registers.held"] == pytest.approx(held / 4)  # 256 pixels, 144 taps: both whole fours
    assert a.total - b.total == pytest.approx(held * 3 / 4)


def _best_by_enumeration(m: int, n: int, k: int, words: int) -> float:
    """Least words moved by an m x n x k product: all power-of-two tiles, all loop orders, tile changes counted."""
    best = np.inf
    sizes = [[2**i for i in range(s.bit_length())] for s in (m, n, k)]
    for t1 in sizes[0]:
        for t2 in sizes[1]:
            for t3 in sizes[2]:
                if t1 * t3 + t3 * t2 + t1 * t2 > words:
                    continue
                trips = (m // t1, n // t2, k // t3)
                for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
                    moved = {"x": 0, "y": 0, "z": 0}
                    last: dict[str, tuple[int, int]] = {}
                    seen: set[tuple[int, int]] = set()
                    for step in np.ndindex(*(trips[i] for i in order)):
                        at = dict(zip(order, step, strict=True))
                        for name, index, size in (("x", (at[0], at[2]), t1 * t3), ("y", (at[2], at[1]), t3 * t2)):
                            if last.get(name) != index:
                                moved[name] += size
                            last[name] = index
                        z = (at[0], at[1])
                        if last.get("z") != z:
                            moved["z"] += t1 * t2 * (2 if z in seen else 1)  # come back: read, and written again
                            seen.add(z)
                        last["z"] = z
                    best = min(best, sum(moved.values()))
    return best


@pytest.mark.parametrize(
    ("m", "n", "k", "words"), [(16, 8, 8, 48), (8, 16, 4, 64), (4, 4, 32, 40), (32, 4, 8, 100), (16, 16, 16, 200)]
)
def test_search_finds_what_plain_enumeration_finds(m: int, n: int, k: int, words: int) -> None:
    """Forward of a 1 x 1 convolution = matrix product; the search may also use thirds, so it may be better."""
    row = Layer(
        "fc",
        "linear",
        macs=m * n * k,
        inputs=m * k,
        outputs=m * n,
        weights=n * k,
        channels=(k, n),
        size=(m, 1),
        out=(m, 1),
    )
    p = passes(shapes([row]), 1)
    bits = _bits(p, 32, 32, 32, 32)
    chip = _with_buffer(words * 32 / 8192)
    found = search(p, bits, chip).to_dram(chip).total[0, 0] / 32
    best = _best_by_enumeration(m, n, k, words)
    assert 0.75 * best <= found <= best * 1.25
    assert found >= compulsory(p, bits).total[0, 0] / 32
