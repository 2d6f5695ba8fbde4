"""Every published measurement has a source and a model's value; unfitted profiles are within a stated factor."""

from __future__ import annotations

import numpy as np
import pytest

from hw_models import load, reference, training_cost
from hw_models.analysis.anchors import QUANTITIES, anchors

EVERY = anchors()


def test_every_anchor_is_sourced_and_of_a_shipped_device() -> None:
    assert {"v100", "a100", "h100", "p100", "rtx6000", "a40", "eyeriss-like-65nm"} <= {a.device for a in EVERY}
    for a in EVERY:
        assert len(a.source) > 20 and a.quantity in QUANTITIES and a.measured > 0 and a.modelled > 0
        assert a.row()["error"] == pytest.approx(a.modelled / a.measured - 1)


def test_training_on_unfitted_gpus_is_within_half() -> None:
    """Joules per image, rates and power of six GPUs in ResNet-50: each within x/÷ 1.55, on average within 25 %."""
    off = np.array([np.log(a.modelled / a.measured) for a in EVERY if load(a.device).kind == "device"])
    assert np.abs(off).max() < np.log(1.55) and np.abs(off).mean() < np.log(1.25)


@pytest.mark.parametrize(("device", "watts"), [("v100", 250), ("a100", 400), ("h100", 700), ("b200", 1000)])
def test_a_board_in_training_draws_about_three_quarters_of_its_limit(device: str, watts: float) -> None:
    chip = load(device)
    for name, precision in (("resnet50", chip.widest), ("vgg16-imagenet", "fp16"), ("resnet18", "fp16")):
        cost = training_cost(reference.network(name), chip, precision, 256)
        assert 0.6 < cost.total / cost.seconds / watts < 1.0


def test_devices_can_be_named() -> None:
    assert {a.device for a in anchors(["a100"])} == {"a100"}
