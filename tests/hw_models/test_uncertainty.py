"""Bands: as wide as stated for absolutes, tight for ratios on one profile, reproducible, and broken down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import hw_models
from hw_models import HardwareError, load, price, training_cost
from hw_models.accelerator.constant import Number
from hw_models.cost.uncertainty import energy_samples, ratio, samples, sensitivity
from hw_models.units import show_joules
from hw_models.workload import reference_networks

NETWORKS = {"vgg": reference_networks.vgg16()}
ENTRY = {
    "stage": "dense",
    "network": "vgg",
    "precision": "fp32",
    "epochs": 1,
    "batch_size": 256,
    "images_per_epoch": 2560,
}


def _bill(chip: object = "horowitz-45nm", **changes: object) -> object:
    return price([{**ENTRY, **changes}], NETWORKS, chip)


def test_one_constant_has_the_band_it_states() -> None:
    number = Number(1.0, 2.0, "x")
    sample = samples({"mac.x": 1.0}, {"mac.x": number}, 1.0, 4000)
    low, middle, high = np.quantile(sample, [0.05, 0.5, 0.95])
    assert (low, middle, high) == pytest.approx((0.5, 1.0, 2.0), rel=0.06)


def test_errors_of_a_kind_go_together_and_others_do_not() -> None:
    n = Number(1.0, 2.0, "x")
    a, b, c = (np.log(samples({k: 1.0}, {k: n}, 1.0, 4000)) for k in ("mac.a", "mac.b", "static.watts"))
    assert np.corrcoef(a, b)[0, 1] == pytest.approx(0.8, abs=0.05)
    assert abs(np.corrcoef(a, c)[0, 1]) < 0.06


def test_absolutes_are_wide_and_ratios_tight() -> None:
    full, eight = _bill(), _bill(precision=8)
    assert full.high / full.low > 4
    value, low, high = ratio(full, eight)
    assert value == pytest.approx(full.joules / eight.joules)
    assert low < value < high and high / low < 1.9
    same, low, high = ratio(full, full)
    assert same == 1 and 0.8 < low < 1 < high < 1.25  # only the model's own residue is left


def test_less_sure_constants_widen_the_band() -> None:
    chip = load("horowitz-45nm")
    wider = replace(chip, dram=replace(chip.dram, band=6.0))
    a, b = _bill(chip), _bill(wider)
    assert a.joules == b.joules and b.high / b.low > a.high / a.low


def test_the_same_bill_has_the_same_band_everywhere() -> None:
    assert np.array_equal(energy_samples(_bill()), energy_samples(_bill()))
    assert (_bill().low, _bill().high) == (_bill().low, _bill().high)


def test_the_band_is_that_of_the_constants_whatever_the_accelerator_is_called() -> None:
    chip = load("horowitz-45nm")
    called_otherwise = replace(chip, name="mine")
    nearly = replace(chip, dram=replace(chip.dram, value=1.0001 * chip.dram.value))
    bands = [(bill.low, bill.high) for bill in map(_bill, (chip, called_otherwise, nearly))]
    assert bands[0] == bands[1]
    assert bands[0] != bands[2] and bands[0] == pytest.approx(bands[2], rel=1e-3)


def test_the_band_scales_with_the_energy() -> None:
    one, many = _bill(), _bill(epochs=1000)
    assert many.low == pytest.approx(1000 * one.low) and many.high == pytest.approx(1000 * one.high)


def test_steps_have_bands_and_ratios_as_bills_do() -> None:
    full, eight = (training_cost(NETWORKS["vgg"], "horowitz-45nm", bits) for bits in (None, "int8"))
    assert full.band[0] < full.total < full.band[1] and full.band == hw_models.band(full)
    value, low, high = hw_models.ratio(eight, full)
    assert value == eight.total / full.total and low < value < high and high / low < 1.9
    assert sum(hw_models.sensitivity(eight, full).values()) == pytest.approx(0, abs=1e-9)
    bill = _bill(eval_images=0, images_per_epoch=256)
    assert bill.total == pytest.approx(full.total) and bill.band == pytest.approx(full.band)
    with pytest.raises(HardwareError, match="zero"):
        hw_models.ratio(full, _bill(epochs=0))


def test_what_is_priced_is_shown_in_one_line() -> None:
    cost, bill = training_cost(NETWORKS["vgg"], "horowitz-45nm", 8), _bill()
    for shown in map(repr, (cost, bill)):
        assert len(shown) < 160 and "\n" not in shown and "horowitz-45nm" in shown and "[" in shown
    assert show_joules(cost.total, *cost.band) in repr(cost) and bill.statement in repr(bill)


def test_a_band_has_two_digits() -> None:
    assert show_joules(35.93, 12.34, 1061.0) == "35.9 J [12, 1100]"


@pytest.mark.parametrize("compared", [ratio, sensitivity])
def test_two_accelerators_have_no_ratio(compared: Callable[..., object]) -> None:
    with pytest.raises(HardwareError, match="horowitz-45nm and tpu-like-7nm"):
        compared(_bill(), _bill("tpu-like-7nm"))


def test_the_derived_share_counts_marked_constants() -> None:
    bill = _bill()
    expected = (
        sum(j for k, j in bill.by_constant.items() if k in ("registers.held", "op.random", "memory.buffer.leakage"))
        / bill.joules
    )
    assert bill.derived_share == pytest.approx(expected) and 0 < expected < 0.2
    assert _bill(precision="fp8").derived_share > bill.derived_share
    assert training_cost(NETWORKS["vgg"], "horowitz-45nm").derived_share == pytest.approx(expected)


def test_sensitivity_is_the_logarithmic_derivative() -> None:
    a, b = _bill(), _bill(precision=8)
    table = sensitivity(a, b)
    assert sum(table.values()) == pytest.approx(0, abs=1e-9)  # all constants 1 % higher: the ratio stays
    chip = load("horowitz-45nm")
    raised = replace(chip, dram=replace(chip.dram, value=chip.dram.value * 1.001))
    moved = _bill(raised).joules / _bill(raised, precision=8).joules / (a.joules / b.joules)
    assert (moved - 1) / 0.001 == pytest.approx(table["dram.pj_per_bit"], rel=0.05)
