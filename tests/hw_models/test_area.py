"""Area laws go through the published points, and an array's area is the sum of its parts."""

from __future__ import annotations

import numpy as np
import pytest

from hw_models import HardwareError, load
from hw_models.accelerator.area import CELL, INT_POINTS, area_mm2, cell_um2, mac_um2, register_um2, sram_mm2
from hw_models.precision.formats import FORMATS


@pytest.mark.parametrize(("bits", "um2"), INT_POINTS.items())
def test_integer_units_are_those_of_the_synthesis(bits: int, um2: float) -> None:
    assert mac_um2(FORMATS[f"int{bits}"], 45) == pytest.approx(um2, rel=0.025)


@pytest.mark.parametrize(("name", "um2"), [("fp32", 7700 + 4184), ("fp16", 1640 + 4184)])
def test_float_units_are_published_multipliers_and_a_32_bit_adder(name: str, um2: float) -> None:
    assert mac_um2(FORMATS[name], 45) == pytest.approx(um2, rel=0.01)


def test_cells_are_the_published_ones_and_fall_in_between() -> None:
    assert [cell_um2(n) for n in CELL] == pytest.approx(list(CELL.values()))
    nodes = np.linspace(2, 90, 200)
    assert (np.diff([cell_um2(n) for n in nodes]) > 0).all()
    assert sram_mm2(8 * 2**20 * 2, 45) == pytest.approx(2 * 2**23 * 0.346e-6 / 0.5)


def test_area_grows_with_width_capacity_and_multipliers() -> None:
    for kind in ("int", "fp"):
        units = sorted((f for f in FORMATS.values() if f.kind == kind), key=lambda f: (f.significand, f.exponent))
        sizes = [mac_um2(f, 16) for f in units]
        assert sizes == sorted(sizes)
    assert (np.diff([register_um2(b, 45) for b in np.linspace(1, 4096, 500)]) > 0).all()
    chip = load("horowitz-45nm")
    parts = area_mm2(chip, [FORMATS["fp32"]])
    assert parts["multipliers"] == pytest.approx(1024 * mac_um2(FORMATS["fp32"], 45) * 1e-6)
    assert parts["registers"] == pytest.approx(1024e-6 * (register_um2(1024, 45) + 2 * register_um2(32, 45)))
    assert parts["buffer"] == pytest.approx(sram_mm2(2048 * 8192, 45))
    both = area_mm2(chip, [FORMATS["fp32"], FORMATS["int8"], FORMATS["fp16"]])
    assert both["multipliers"] == pytest.approx(
        parts["multipliers"] + 1024 * mac_um2(FORMATS["int8"], 45) * 1e-6
    )  # an integer unit beside the float one; fp16 runs on fp32's


def test_a_device_has_no_array_to_measure() -> None:
    with pytest.raises(HardwareError, match="jetson-tx2 is a device"):
        area_mm2(load("jetson-tx2"), [FORMATS["fp32"]])
