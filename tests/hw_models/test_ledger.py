"""Ledgers: images, steps, precisions and networks in; joules with bands out; nothing lost, nothing twice."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hw_models import FormatError, HardwareError, LedgerError, load, price, training_cost
from hw_models.cost.carbon import INTENSITIES, intensity
from hw_models.cost.inference import forward_cost
from hw_models.units import kwh, show_joules
from hw_models.workload import reference_networks
from hw_models.workload.op_counts import step_macs

DENSE = reference_networks.vgg16(10)[:12]
NETWORKS = {"dense": [row.to_dict() for row in DENSE], "ticket": DENSE[:6]}
ENTRY: dict[str, Any] = {
    "stage": "search",
    "network": "dense",
    "precision": "fp32",
    "epochs": 3,
    "batch_size": 128,
    "images_per_epoch": 1347,
    "steps_per_epoch": 11,
    "eval_images": 1350,
    "mask_draws": 3,
    "channels": 4224,
    "l1": True,
    "masked": False,
}


def _price(**changes: Any) -> Any:
    return price([{**ENTRY, **changes}], NETWORKS, "horowitz-45nm")


def test_the_images_of_an_epoch_are_full_batches_and_a_rest() -> None:
    bill = _price(eval_images=0, mask_draws=0)
    full, rest = (training_cost(DENSE, "horowitz-45nm", None, n, l1=True) for n in (128, 1347 - 10 * 128))
    assert bill.joules == pytest.approx(3 * (10 * full.total + rest.total))
    assert bill.seconds == pytest.approx(3 * (10 * full.seconds + rest.seconds))
    assert bill.macs == pytest.approx(3 * 1347 * step_macs(DENSE), rel=1e-12)
    assert (bill.stages[0].images, bill.stages[0].steps) == (3 * 1347, 33)


def test_evaluation_is_forward_passes_in_evaluation_mode() -> None:
    with_eval, without = _price(), _price(eval_images=0)
    full, rest = (forward_cost(DENSE, "horowitz-45nm", None, n) for n in (128, 1350 - 10 * 128))
    assert with_eval.joules - without.joules == pytest.approx(10 * full.total + rest.total, rel=1e-9)
    assert with_eval.seconds - without.seconds == pytest.approx(10 * full.seconds + rest.seconds, rel=1e-9)
    assert with_eval.macs == without.macs and full.macs == 128 * sum(row.macs for row in DENSE)


def test_mask_draws_cost_something_negligible() -> None:
    """VGG16 at the paper's size: about 2e-9 of an epoch's energy each."""
    entry = {
        **ENTRY,
        "network": "vgg",
        "images_per_epoch": 50_000,
        "steps_per_epoch": 391,
        "epochs": 1,
        "eval_images": 0,
        "mask_draws": 1,
    }
    bill = price([entry], {"vgg": reference_networks.vgg16()}, "horowitz-45nm")
    share = bill.stages[0].work["mask"] / bill.joules
    assert 0 < share < 1e-6
    compares = 2 * 4224 + 3 * 4224 * 12.044 + 5 * 4224 / 32
    assert bill.stages[0].work["mask"] == pytest.approx((compares * 0.1 + 37 * 4224 * 20) * 1e-12, rel=1e-3)


def test_masked_training_reads_its_mask() -> None:
    plain, masked = _price(), _price(masked=True)
    weights = sum(row.weights for row in DENSE)
    assert masked.joules - plain.joules == pytest.approx(33 * weights * (3.7 + 20) * 1e-12, rel=1e-9)


def test_stages_add_up_and_each_has_its_own_precision() -> None:
    entries = [ENTRY, {**ENTRY, "stage": "retrain", "network": "ticket", "precision": 8, "epochs": 7}]
    bill = price(entries, NETWORKS, "horowitz-45nm")
    single = [price([e], NETWORKS, "horowitz-45nm") for e in entries]
    assert bill.joules == pytest.approx(sum(b.joules for b in single))
    assert [s.precision for s in bill.stages] == ["fp32", "all int8"]
    for view in (bill.components, bill.by_constant):
        assert sum(view.values()) == pytest.approx(bill.joules, rel=1e-9)
    assert bill.low < bill.joules < bill.high


def test_the_simpler_models_stand_beside_the_chosen_one() -> None:
    bill = _price()
    for rung, joules in bill.brackets.items():
        assert joules == pytest.approx(price([ENTRY], NETWORKS, "horowitz-45nm", model=rung).joules)
    assert bill.brackets["macs"] < bill.brackets["compulsory"] < bill.joules
    assert price([ENTRY], NETWORKS, "horowitz-45nm", model="compulsory").brackets.keys() == {"macs"}


def test_epochs_and_stages_are_linear() -> None:
    one, ten = _price(epochs=1, eval_images=0, mask_draws=0), _price(epochs=10, eval_images=0, mask_draws=0)
    assert ten.joules == pytest.approx(10 * one.joules)
    assert _price(epochs=0, eval_images=0, mask_draws=0).joules == 0


def test_pricing_again_elsewhere_needs_nothing_but_the_ledger() -> None:
    entries, networks = json.loads(json.dumps(([ENTRY], {"dense": NETWORKS["dense"]})))
    assert price(entries, networks, "tpu-like-7nm").joules < price(entries, networks, "horowitz-45nm").joules


def test_the_dictionary_is_json_and_complete() -> None:
    data = json.loads(json.dumps(_price().to_dict()))
    assert data["joules"] == pytest.approx(sum(s["joules"] for s in data["stages"]))
    assert data["kwh"] == pytest.approx(data["joules"] / 3.6e6)
    assert data["low"] <= data["joules"] <= data["high"] and 0 <= data["derived_share"] <= 1
    assert data["accelerator_digest"] == load("horowitz-45nm").digest


def test_carbon_names_its_year_and_source() -> None:
    bill = _price()
    assert bill.gco2("FRA") == pytest.approx(kwh(bill.joules) * 56.0)
    assert all(g.year == 2023 and g.source for g in INTENSITIES.values()) and intensity().name == "world"
    with pytest.raises(ValueError, match=r"Atlantis.*FRA"):
        bill.gco2("Atlantis")


def test_the_statement_shows_band_profile_and_what_is_derived() -> None:
    text = _price().statement
    assert "horowitz-45nm" in text and "[" in text and "%" in text and "derived" in text
    assert show_joules(64_400, 29_000, 140_000) == "64.4 kJ [29, 140]"
    assert show_joules(0) == "0 pJ"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": "other"}, "network 'other'"),
        ({"network": None}, "None"),
        ({"epochs": -1}, "epochs is -1"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"epochs": True}, "epochs is True"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"images_per_epoch": "many"}, "images_per_epoch"),
        ({"steps_per_epoch": 9}, "steps_per_epoch is 9"),
        ({"eval_images": -5}, "eval_images"),
        ({"mask_draws": None}, "mask_draws"),
        ({"channels": -1}, "channels"),
    ],
)
def test_a_wrong_entry_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(LedgerError, match=words):
        _price(**changes)


def test_a_missing_count_and_a_broken_network_are_named() -> None:
    entry = dict(ENTRY)
    del entry["epochs"]
    with pytest.raises(LedgerError, match="entry 0: epochs is None"):
        price([entry], NETWORKS, "horowitz-45nm")
    with pytest.raises(LedgerError, match="entry 0: epoch: is not a known key; did you mean epochs"):
        _price(epoch=7)
    with pytest.raises(LedgerError, match="network 'dense'"):
        price([ENTRY], {"dense": [{"kind": "conv"}]}, "horowitz-45nm")
    with pytest.raises(LedgerError, match="network 'dense'"):
        price([ENTRY], {"dense": [{"name": "x", "kind": "quantum"}]}, "horowitz-45nm")
    with pytest.raises(HardwareError, match="unknown reuse model"):
        price([ENTRY], NETWORKS, "horowitz-45nm", model="best")


def test_formats_that_the_chip_lacks_stop_the_bill() -> None:
    with pytest.raises(FormatError, match="jetson-tx2 has no int8"):
        price([{**ENTRY, "precision": "int8"}], NETWORKS, "jetson-tx2")
    assert price([{**ENTRY, "precision": "int8"}], NETWORKS, "jetson-tx2", hypothetical=True).joules > 0
