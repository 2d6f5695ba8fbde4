"""Many accelerators or candidate networks at once equal the same ones priced alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hw_models import HardwareError, load, training_cost
from hw_models.analysis.design_sweep import BLOCK, sweep
from hw_models.workload import reference_networks

ROWS = reference_networks.vgg16(10)


def test_other_constants_equal_other_profiles() -> None:
    chip = load("horowitz-45nm")
    together = sweep(ROWS, chip, {"dram.pj_per_bit": [5, 20, 70], "mac.fp32": [1.0, 4.6, 9.0]})
    for i, (dram, mac) in enumerate(((5, 1.0), (20, 4.6), (70, 9.0))):
        other = replace(
            chip,
            dram=replace(chip.dram, value=dram),
            mac_points={**chip.mac_points, "fp32": replace(chip.mac_points["fp32"], value=mac)},
        )
        assert together[i] == pytest.approx(training_cost(ROWS, other).total, rel=1e-9)


def test_other_buffers_equal_other_profiles() -> None:
    chip = load("horowitz-45nm")
    sizes = np.geomspace(16, 8192, BLOCK + 3)
    together = sweep(ROWS, chip, {"memory.buffer.kib": sizes})
    assert together.shape == sizes.shape and (np.diff(together) <= 1e-9).all()
    for i in (0, BLOCK, BLOCK + 2):
        other = replace(chip, memories=(replace(chip.memories[0], bits=sizes[i] * 8192),))
        assert together[i] == pytest.approx(training_cost(ROWS, other).total, rel=1e-9)


def test_a_thousand_variants_of_resnet50_come_in_one_call() -> None:
    values = np.linspace(4, 70, 1000)
    found = sweep(reference_networks.resnet50(), "horowitz-45nm", {"dram.pj_per_bit": values})
    assert found.shape == (1000,) and (np.diff(found) > 0).all()


def test_an_unknown_constant_is_named() -> None:
    with pytest.raises(HardwareError, match=r"dram\.pj.*dram\.pj_per_bit"):
        sweep(ROWS, "horowitz-45nm", {"dram.pj": [1.0]})
