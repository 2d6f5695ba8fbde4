"""Precision records: what ebsim writes, what users write, and what must be refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hw_models import FormatError, load, training_cost
from hw_models.precision.formats import FORMATS, parse_format, parse_precision
from hw_models.workload import reference_networks

RECORD = {
    "schema": 1,
    "name": "mine",
    "formats": {
        "tiny": {"bits": 4, "mac": "int:4", "scale_bits": 8, "block": 32},
        "odd8": {"bits": 8, "mac": "fp:3,4", "scale_bits": 0, "block": 0},
    },
    "default": {
        "forward": {"weight": "tiny", "activation": "odd8"},
        "input_gradient": {"weight": "tiny", "error": "bf16"},
        "weight_gradient": {"activation": "odd8", "error": "bf16"},
        "accumulator": "fp32",
        "output": "bf16",
    },
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
    rounded = {("forward", "weight"): "nearest", ("forward", "activation"): "stochastic"}
    assert p.quantized == {**rounded, ("input_gradient", "weight"): "nearest"}  # blocks of 32: rounded for each pass


def test_a_layer_says_only_what_differs() -> None:
    partly = parse_precision({**RECORD, "layers": {"conv0.0": {"forward": {"weight": "fp32"}, "output": "e4m3"}}})
    assert [f.name for f in partly.rule("conv0.0").operands[0]] == ["odd8", "fp32"]
    assert partly.rule("conv0.0").output.name == "e4m3" and partly.rule("conv0.0").accumulator.name == "fp32"


def test_a_blocks_scale_is_part_of_the_stored_bits() -> None:
    assert parse_precision(RECORD).default.operands[0][1].bits == 4 + 8 / 32
    assert FORMATS["bfp8"].bits == 8  # one exponent per row is not worth counting


def test_formats_from_outside_are_priced_by_the_law_of_their_class() -> None:
    chip = load("horowitz-45nm")
    cost = training_cost(reference_networks.vgg16(), chip, RECORD)
    assert {"mac.odd8*tiny", "mac.bf16*tiny", "mac.odd8*bf16", "mac.fp32"} <= set(cost.numbers)
    tiny = parse_format("tiny", RECORD["formats"]["tiny"])
    assert cost.numbers["mac.odd8*tiny"].derived and chip.mac(tiny, tiny).value < chip.mac_points["int8"].value


def test_a_format_is_known_by_its_multiplier_not_by_its_name() -> None:
    per_row = parse_format("int8/row", {"bits": 8, "mac": "int:8", "scale_bits": 32, "block": "row"})
    assert load("horowitz-45nm").mac(per_row, per_row).value == 0.30
    assert load("h100").supports(per_row)


@pytest.mark.parametrize(
    ("formats", "has"),
    [
        (("int",), {"int8", "int16", "bfp8", "bfp4"}),
        (("int8",), {"int8", "bfp8"}),
        (("bfp",), {"bfp8", "bfp4"}),
        (("bfp8",), {"bfp8"}),
        (("fp",), {"fp32", "e4m3"}),
        (("fp16",), set()),
        ((), {*FORMATS}),
    ],
)
def test_integer_units_have_the_block_floats_of_their_width(formats: tuple[str, ...], has: set[str]) -> None:
    chip = replace(load("horowitz-45nm"), formats=formats)
    asked = ["int8", "int16", "bfp8", "bfp4", "fp32", "e4m3", *(FORMATS if not formats else ())]
    assert {name for name in asked if chip.supports(FORMATS[name])} == has


def test_a_block_float_on_a_device_is_as_fast_as_its_integers() -> None:
    rate = load("h100").rate
    assert rate(FORMATS["bfp8"], FORMATS["bfp8"]) == rate(FORMATS["int8"], FORMATS["int8"])
    assert rate(FORMATS["bfp4"], FORMATS["bfp4"]) == rate(FORMATS["int8"], FORMATS["int8"])  # no peak named: next wider


def test_a_width_that_a_device_does_not_name_runs_at_the_next_wider_ones_rate() -> None:
    rate = load("h100").rate
    for name, like in (("int4", "int8"), ("int2", "int8"), ("int16", "fp16"), ("int32", "fp32"), ("bfp4", "int8")):
        assert rate(FORMATS[name], FORMATS[name]) == rate(FORMATS[like], FORMATS[like]), name


@pytest.mark.parametrize(
    ("given", "name", "bits"),
    [
        (None, "fp32", 32),
        (32, "fp32", 32),
        (8, "all int8", 8),
        (4, "int4", 4),
        (12, "int12", 12),
        ("e4m3", "e4m3", 8),
        ("all bfp8", "all bfp8", 8),
        ("fp32", "fp32", 32),
    ],
)
def test_short_names(given: object, name: str, bits: int) -> None:
    p = parse_precision(given)
    assert p.name == name and {f.bits for pair in p.default.operands for f in pair} == {bits}
    assert p.default.accumulator.bits == 32 and p.stored.name == "fp32"
    assert bool(p.quantized) == (name != "fp32")


def test_fp8_mixes_its_two_formats() -> None:
    names = [[f.name for f in pair] for pair in parse_precision("fp8").default.operands]
    assert names == [["e4m3", "e4m3"], ["e5m2", "e4m3"], ["e4m3", "e5m2"]]


def test_records_of_this_project_are_understood() -> None:
    from ebsim import models, precision

    for backend in ("fp32", "fp8", "bfp8", "int8"):
        network = models.build("vgg", classes=10, depth=11)
        record = precision.apply(network, backend, seed=0).record()
        cost = training_cost(reference_networks.vgg16(), "horowitz-45nm", record)
        assert cost.precision == backend and cost.total > 0


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("int8x", "did you mean int8"),
        ("mxfp", "did you mean mxfp8"),
        (0, "unknown precision 0"),
        (-1, "-1"),
        (65, "65"),
        (True, "True"),
        (3.5, "3.5"),
        ({}, "default: is missing"),
        ({"a": 1}, "a: is not a known key"),
        ({"forward": {"weight": "int8"}}, "forward: belongs under default"),
        ({"forward": {"weigth": "int8"}}, "forward: belongs under default"),
        ({"default": 8}, "default: is 8, must be a table"),
        ({"default": {"forwrad": {"weight": "int8"}}}, "default.forwrad: .* did you mean forward"),
        ({"default": {"forward": {"weigth": "int8"}}}, "default.forward.weigth: .* did you mean weight"),
        ({"default": {"forward": {"error": "int8"}}}, "default.forward.error: is not a known key"),
        ({"default": {"forward": {"weight": 8}}}, "default.forward.weight: is 8, must be the name"),
        ({"default": {"forward": "int8"}}, "default.forward: is 'int8', must be a table"),
        ({"default": {"forward": {"weight": "nothing"}}}, "no format 'nothing'"),
        ({"default": {"output": "itn8"}}, "no format 'itn8'; did you mean int8"),
        ({"default": {"output": "fp32"}, "layer": {}}, "layer: .* did you mean layers"),
        ({"default": {"output": "fp32"}, "layers": {"conv1": {"ouput": "fp32"}}}, "layers.conv1.ouput: .* output"),
        ({"default": {"output": "fp32"}, "update": {"stord": "int8"}}, "update.stord: .* did you mean stored"),
        ({"default": {"output": "fp32"}, "quantise": {"weight": "up"}}, "quantise.weight: is 'up', must be nearest or"),
        ({"formats": 5, "default": {"output": "fp32"}}, "formats: is 5"),
        ({"schema": 3}, "schema: is 3"),
        ({"formats": {"x": {}}, "default": {"output": "x"}}, "format 'x'"),
        ({"formats": {"x": 8}, "default": {"output": "x"}}, "format 'x': is 8"),
        ({"formats": {"x": {"bit": 8, "mac": "int:8"}}, "default": {"output": "x"}}, "bit: .* did you mean bits"),
        ({"formats": {"x": {"bits": 8, "mac": "int:"}}, "default": {"output": "x"}}, "format 'x'"),
        ({"formats": {"x": {"bits": 8, "mac": "fp:8"}}, "default": {"output": "x"}}, "format 'x'"),
        ({"formats": {"x": {"bits": float("nan"), "mac": "int:8"}}, "default": {"output": "x"}}, "format 'x'"),
        ({"formats": {"x": {"bits": 8, "mac": "posit:8"}}, "default": {"output": "x"}}, "format 'x'"),
        ({"formats": {"x": {"bits": 1e9, "mac": "int:8"}}, "default": {"output": "x"}}, "format 'x'"),
    ],
)
def test_what_cannot_be_understood_is_named(bad: object, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        parse_precision(bad)
