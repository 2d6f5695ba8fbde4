"""Precision records: what ebsim writes, what users write, and what must be refused."""

from __future__ import annotations

import pytest

from hw_models import FormatError, load, reference, training_cost
from hw_models.formats import FORMATS, parse_format, parse_precision

RECORD = {
    "schema": 1, "name": "mine",
    "formats": {"tiny": {"bits": 4, "mac": "int:4", "scale_bits": 8, "block": 32},
                "odd8": {"bits": 8, "mac": "fp:3,4", "scale_bits": 0, "block": 0}},
    "default": {"forward": {"weight": "tiny", "activation": "odd8"},
                "input_gradient": {"weight": "tiny", "error": "bf16"},
                "weight_gradient": {"activation": "odd8", "error": "bf16"}, "accumulator": "fp32", "output": "bf16"},
    "layers": {"conv0.0": {"forward": {"weight": "fp32", "activation": "fp32"}}},
    "update": {"gradient": "bf16", "momentum": "fp32", "stored": "fp32"},
    "quantise": {"weight": "nearest", "activation": "stochastic"},
}


def test_a_record_says_which_operand_has_which_format_in_which_pass() -> None:
    p = parse_precision(RECORD)
    names = [[f.name for f in pair] for pair in p.default.operands]
    assert names == [["odd8", "tiny"], ["bf16", "tiny"], ["odd8", "bf16"]]
    first = p.rule("conv0.0")
    assert [f.name for f in first.operands[0]] == ["fp32", "fp32"]
    assert [f.name for f in first.operands[1]] == ["bf16", "tiny"] and first.output.name == "bf16"
    assert (p.gradient.name, p.momentum.name, p.stored.name) == ("bf16", "fp32", "fp32")
    assert p.quantised == {"weight": "nearest", "activation": "stochastic"}


def test_a_blocks_scale_is_part_of_the_stored_bits() -> None:
    assert parse_precision(RECORD).default.operands[0][1].bits == 4 + 8 / 32
    assert FORMATS["bfp8"].bits == 8  # one exponent per row is not worth counting


def test_formats_from_outside_are_priced_by_the_law_of_their_class() -> None:
    chip = load("horowitz-45nm")
    cost = training_cost(reference.vgg16(), chip, RECORD)
    assert {"mac.odd8*tiny", "mac.bf16*tiny", "mac.odd8*bf16", "mac.fp32"} <= set(cost.constants)
    tiny = parse_format("tiny", RECORD["formats"]["tiny"])
    assert cost.constants["mac.odd8*tiny"].derived and chip.mac(tiny, tiny).value < chip.mac_points["int8"].value


def test_a_format_is_known_by_its_multiplier_not_by_its_name() -> None:
    per_row = parse_format("int8/row", {"bits": 8, "mac": "int:8", "scale_bits": 32, "block": "row"})
    assert load("horowitz-45nm").mac(per_row, per_row).value == 0.30
    assert load("h100").supports(per_row)


@pytest.mark.parametrize(("given", "name", "bits"), [
    (None, "fp32", 32), (32, "fp32", 32), (8, "int8", 8), (4, "int4", 4), (12, "int12", 12), ("e4m3", "e4m3", 8),
    ("bfp8", "bfp8", 8), ("fp32", "fp32", 32)])
def test_short_names(given: object, name: str, bits: int) -> None:
    p = parse_precision(given)
    assert p.name == name and {f.bits for pair in p.default.operands for f in pair} == {bits}
    assert p.default.accumulator.bits == 32 and p.stored.name == "fp32"
    assert bool(p.quantised) == (name != "fp32")


def test_fp8_mixes_its_two_formats() -> None:
    names = [[f.name for f in pair] for pair in parse_precision("fp8").default.operands]
    assert names == [["e4m3", "e4m3"], ["e5m2", "e4m3"], ["e4m3", "e5m2"]]


def test_records_of_this_project_are_understood() -> None:
    from ebsim import models, precision
    for backend in ("fp32", "fp8", "bfp8", "int8"):
        network = models.build("vgg", classes=10, depth=11)
        record = precision.apply(network, backend, seed=0).record()
        cost = training_cost(reference.vgg16(), "horowitz-45nm", record)
        assert cost.precision == backend and cost.total > 0


@pytest.mark.parametrize("bad", [
    "int8x", 0, -1, 65, True, 3.5, {"formats": 5}, {"schema": 2}, {"formats": {"x": {}}, "default": {"output": "x"}},
    {"formats": {"x": {"bits": 8, "mac": "int:"}}, "default": {"output": "x"}},
    {"formats": {"x": {"bits": 8, "mac": "fp:8"}}, "default": {"output": "x"}},
    {"formats": {"x": {"bits": float("nan"), "mac": "int:8"}}, "default": {"output": "x"}},
    {"formats": {"x": {"bits": 8, "mac": "posit:8"}}, "default": {"output": "x"}},
    {"formats": {"x": {"bits": 1e9, "mac": "int:8"}}, "default": {"output": "x"}},
    {"default": {"forward": {"weight": "nothing"}}}])
def test_what_cannot_be_understood_is_named(bad: object) -> None:
    with pytest.raises(FormatError):
        parse_precision(bad)
