"""What an entry says was executed."""

from __future__ import annotations

import pytest

from ebsim.runs.ledger import entry
from hw_models import LedgerError, price
from hw_models.workload import reference_networks

CURVE = [
    {"images": 50, "steps": 3},
    {"images": 50, "steps": 3, "test_images": 20},
    {"images": 50, "steps": 3, "test_images": 20, "average_images": 50 + 20},
]


def test_test_sets_and_statistics_are_told_apart() -> None:
    found = entry("retrain", "net", CURVE, "fp32", batch_size=20, draws=0, channels=0, l1=False)
    assert (found["epochs"], found["images"], found["steps"]) == (3, 150, 9)
    assert (found["eval_images"], found["evaluations"], found["statistics_images"]) == (60, 3, 50)
    bill = price([found], {"net": reference_networks.vgg16(10)}, "horowitz-45nm")
    assert bill.stages[0].work["evaluate"] > 0 and bill.stages[0].images == 150


def test_an_entry_with_nothing_evaluated_is_priced_as_such() -> None:
    found = entry("search", "net", CURVE[:1], "fp32", batch_size=20, draws=0, channels=0, l1=False)
    assert (found["eval_images"], found["evaluations"], found["statistics_images"]) == (0, 0, 0)
    networks = {"net": reference_networks.vgg16(10)}
    assert price([found], networks, "horowitz-45nm").stages[0].work["evaluate"] == 0
    with pytest.raises(LedgerError, match="eval_images is 3"):
        price([{**found, "eval_images": 3}], networks, "horowitz-45nm")
