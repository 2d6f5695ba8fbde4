"""A precision that ebsim trains in and one that hw_models prices: one name, one meaning."""

from __future__ import annotations

import pytest

from ebsim import models, precision
from hw_models import load, trace, training_cost
from hw_models.precision.formats import FORMATS, parse_precision
from hw_models.precision.presets import PRESETS as TRAINED
from hw_models.workload import reference_networks


@pytest.mark.parametrize("names", [["first", "middle", "last"], ["first", "last"], ["only"]])
@pytest.mark.parametrize("name", TRAINED)
def test_a_name_prices_what_the_training_of_that_name_does(name: str, names: list[str]) -> None:
    ours, trained = parse_precision(name).on(names), parse_precision(precision.record(name, names))
    assert [ours.rule(layer) for layer in names] == [trained.rule(layer) for layer in names]
    assert ours.default == trained.default and ours.one_dimensional == trained.one_dimensional
    assert ours.one_dimensional_rounding == trained.one_dimensional_rounding


@pytest.mark.parametrize("name", TRAINED)
def test_the_price_of_a_real_network_is_the_same_by_name_and_by_its_own_record(name: str) -> None:
    network = models.build("preresnet", classes=10, input_shape=(3, 8, 8), depth=11)
    layers = trace(network, (3, 8, 8), check=False)
    record = precision.apply(network, name, seed=0).record() if name != "fp32" else precision.record("fp32")
    by_record = training_cost(layers, "horowitz-45nm", record, 128)
    by_name = training_cost(layers, "horowitz-45nm", name, 128)
    if "pointwise" in record:  # a name cannot know that this network pools by a function, which no precision rounds
        record["pointwise"]["mean"] = record["pointwise"]["relu"]
        by_record = training_cost(layers, "horowitz-45nm", record, 128)
    assert by_name.by_constant == pytest.approx(by_record.by_constant, rel=1e-12)


def test_one_format_for_everything_has_a_spelling_of_its_own() -> None:
    rows, chip = reference_networks.vgg16(), load("horowitz-45nm")
    eight = {training_cost(rows, chip, bits).total for bits in (8, "all int8", FORMATS["int8"])}
    assert len(eight) == 1 and eight.pop() < training_cost(rows, chip, "int8").total
    assert parse_precision(8).name == "all int8" and parse_precision("e4m3").name == "e4m3"
