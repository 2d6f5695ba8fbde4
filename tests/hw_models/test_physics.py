"""Leakage, DRAM reads and writes, whole accesses, loads that wait, loops on the array: each against a sum by hand."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest

from hw_models import Layer, ProfileError, load, price, reference, training_cost
from hw_models.accelerator.sram_energy import SRAM_LEAKAGE
from hw_models.mapping.bursts import _together

CHIP = load("horowitz-45nm")
LINEAR = Layer("fc", "linear", macs=64 * 32, inputs=64, outputs=32, weights=64 * 32, channels=(64, 32))
POOL = Layer("pool", "maxpool", inputs=4 * 36, outputs=4 * 9, channels=(4, 4), size=(6, 6), out=(3, 3), kernel=(2, 2))


def test_the_buffer_leaks_by_its_law_for_as_long_as_a_step_lasts() -> None:
    cost = training_cost(reference.vgg16(), CHIP)
    watts = 2 * SRAM_LEAKAGE["cacti-45lop"]
    assert cost.components["static"] == pytest.approx(watts * cost.seconds) and cost.components["static"] > 0
    assert cost.numbers["memory.buffer.leakage"].derived


def test_reads_and_writes_of_dram_cost_what_each_says() -> None:
    rows = reference.vgg16(10)[:8]
    both = training_cost(rows, CHIP)
    apart = training_cost(rows, replace(CHIP, dram_writes=replace(CHIP.dram, value=2 * CHIP.dram.value)))
    read, written = (apart.by_constant[key] for key in ("dram.read", "dram.write"))
    assert read + written / 2 == pytest.approx(both.components["dram"]) and written > 0
    ledger = [{"network": "a", "epochs": 1, "batch_size": 4, "images_per_epoch": 8, "mask_draws": 2, "channels": 9}]
    assert price(ledger, {"a": rows}, apart.chip).total > price(ledger, {"a": rows}, CHIP).total


def test_a_max_pool_writes_an_index_per_output_and_reads_it_again() -> None:
    average = replace(POOL, kind="avgpool")
    pooled, without = (training_cost([row], CHIP, batch=2).dram_bits.sum() for row in (POOL, average))
    assert pooled - without == 2 * 2 * 36 * 2  # two bits choose one of four; out and in; two images


def test_a_sum_of_one_product_needs_no_register() -> None:
    cost = training_cost([LINEAR], CHIP, batch=1)
    sums = next(part for part in cost.parts if part.key == "registers.sums")
    assert float(sums.counts[2].sum()) == 0  # weight gradient of one image
    assert float(sums.counts[0].sum()) == (2 * 64 - 1) * 32 * 32  # a write per product, a read but for the first
    more = training_cost([LINEAR], CHIP, batch=2)
    assert float(next(p for p in more.parts if p.key == "registers.sums").counts[2].sum()) == 3 * LINEAR.macs * 32


def test_an_access_moves_its_whole_width() -> None:
    narrow = Layer("conv", "conv", macs=8 * 3 * 64, inputs=3 * 64, outputs=8 * 64, weights=24, channels=(3, 8),
                   size=(8, 8), out=(8, 8))  # fmt: skip
    loops = {which: (("K",), ("C",)) for which in CHIP.unroll}
    chips = [replace(CHIP, unroll=loops, memories=(replace(CHIP.memories[0], access_bits=b),)) for b in (1.0, 64.0)]
    free, whole = (training_cost([narrow], chip, 8, 1).by_constant["memory.buffer.read"] for chip in chips)
    assert whole > free * 1.2  # three channels of 8 bits are 24 useful bits of 64


def test_channels_alone_fill_fewer_places_than_channels_and_window() -> None:
    first = reference.resnet18()[:1]
    alone = replace(CHIP, unroll={which: (("K",), ("C",)) for which in CHIP.unroll})
    merged, apart = (training_cost(first, chip, batch=1).row_limits[0, 0, 0] for chip in (CHIP, alone))
    assert apart / merged == pytest.approx(49 / 5)  # 49 taps of 3 channels, or 147 in five steps of 32
    both = replace(CHIP, unroll={which: (("K",), ("R", "C")) for which in CHIP.unroll})
    assert training_cost(first, both, batch=1).row_limits[0, 0, 0] / merged == pytest.approx(7 / 5)  # 7 rows x 3


def test_loads_wait_without_a_second_buffer_and_need_half_of_it_with_one() -> None:
    rows = reference.resnet18()
    free, waits, halves = (
        training_cost(rows, replace(CHIP, memories=(replace(CHIP.memories[0], double_buffer=flag),)), model="search")
        for flag in (None, False, True)
    )
    assert waits.seconds > free.seconds and waits.bytes == free.bytes
    assert halves.bytes >= free.bytes * (1 - 1e-9) and halves.seconds < waits.seconds


def test_a_port_of_its_own_for_writes_is_never_slower() -> None:
    narrow = replace(CHIP.memories[0], bits_per_cycle=256.0)
    one, two = (
        training_cost(reference.resnet18(), replace(CHIP, memories=(memory,))).seconds
        for memory in (narrow, replace(narrow, write_bits_per_cycle=256.0))
    )
    assert two < one


def test_averaging_the_weights_is_counted() -> None:
    entry = {"network": "a", "epochs": 1, "batch_size": 4, "images_per_epoch": 8}
    plain, averaged = (price([{**entry, "weight_averages": n}], {"a": [LINEAR]}, CHIP) for n in (0, 3))
    each = CHIP.ops["multiply"].value + 2 * CHIP.ops["add"].value + 96 * CHIP.dram.value  # mean and weight in, mean out
    assert averaged.total - plain.total == pytest.approx(3 * LINEAR.weights * each * 1e-12)


@pytest.mark.parametrize(("old", "new", "words"), [
    ("gbytes_per_s = 25.6", "gbytes_per_s = 25.6\nread_pj_per_bit = { value = 20, source = \"x\" }", "both"),
    ("bits_per_cycle = 2048", "bits_per_cycle = 2048\nread_bits_per_cycle = 64", "needs either bits_per_cycle"),
    ('forward = ["K", "C"] ', 'forward = [["K"], ["Z"]] ', "list of loops"),
])  # fmt: skip
def test_half_of_a_pair_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    text = Path(CHIP.path).read_text()
    assert old in text
    path = tmp_path / "chip.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ProfileError, match=words):
        load(path)


def test_the_array_waits_for_its_first_tiles_and_dram_is_not_counted_twice() -> None:
    """One layer that fits: X and Y come through DRAM's bandwidth before the first step, or are all that takes time."""
    chip = replace(CHIP, memories=(replace(CHIP.memories[0], bits=1e12, bits_per_cycle=1e9),))
    rows = reference.resnet18()
    layer = next(r for r in rows if r.name == "layer4.0.conv1")
    for bandwidth in (1e9, 1e14):
        one = replace(chip, dram_bits_per_s=bandwidth)
        cost = training_cost([layer], one, "all int8", 1, model="search")
        loaded = 8 * (layer.channels[0] * 14 * 14 + layer.weights) / bandwidth
        moved, steps = float(cost.dram_bits[0, 0]) / bandwidth, cost.row_limits[0, 0, 0]  # with the quantizers' passes
        assert moved > loaded + 8 * layer.outputs / bandwidth
        assert cost.row_waits is not None and cost.row_waits[0, 0] == pytest.approx(loaded)
        assert cost.row_seconds[0, 0] == pytest.approx(max(loaded + steps, moved))
    closed = training_cost([layer], chip, "all int8", 1)
    assert closed.row_waits is not None and not closed.row_waits.any()


def test_rows_name_the_level_that_they_wait_for() -> None:
    rows = reference.resnet18()
    narrow = replace(CHIP, memories=(replace(CHIP.memories[0], bits_per_cycle=8.0),))
    slow = replace(CHIP, dram_bits_per_s=1e8)
    for chip, told in ((CHIP, "array"), (narrow, "buffer"), (slow, "dram")):
        row = next(r for r in training_cost(rows, chip, "all int8", 16).rows if r["layer"] == "layer2.0.conv2")
        assert row["waits_for"] == told
    loading = replace(CHIP, memories=(replace(CHIP.memories[0], double_buffer=False),), dram_bits_per_s=1e8)
    assert {r["waits_for"] for r in training_cost(rows, loading, None, 16).rows if r["macs"]} == {"loading"}


def test_dram_moves_whole_bursts() -> None:
    """Runs counted by hand: element addresses of a tile, cut where they do not follow one another."""
    rng = random.Random(5)
    for _ in range(60):
        shape = [rng.randint(1, 4) for _ in range(4)]
        taken = [rng.randint(1, n) for n in shape]
        addresses = sorted(
            sum(i * math.prod(shape[a + 1 :]) for a, i in enumerate(at)) for at in product(*(range(t) for t in taken))
        )
        runs = 1 + sum(b != a + 1 for a, b in pairwise(addresses))
        axes = [(np.array([float(t)]), np.array([float(n)])) for t, n in zip(taken[::-1], shape[::-1], strict=True)]
        assert len(addresses) / float(_together(*axes)[0]) == runs
    rows = reference.resnet18()
    plain, bursts = (
        training_cost(rows, replace(CHIP, burst_bits=bits), "all int8", 1, model="search") for bits in (1.0, 64 * 8.0)
    )
    assert plain.bytes < bursts.bytes < 1.5 * plain.bytes and bursts.total > plain.total
    closed = [training_cost(rows, replace(CHIP, burst_bits=b), "all int8", 1).total for b in (1.0, 512.0)]
    assert closed[0] == closed[1]
