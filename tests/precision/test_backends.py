"""Backends as data: strict tables, rules per layer and pass, refusals that name the cure, and the record."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebsim.errors import ConfigError
from ebsim.precision import backend, list_backends, list_formats, plan, record
from ebsim.precision.backends import CELLS, KEYS, PASSES
from ebsim.precision.formats.accumulators import ACCUMULATORS
from ebsim.precision.registry import parse_backend
from hw_models.precision.formats import parse_precision
from tests.precision.nets import LAYERS, Small

WRONG = [
    ({"wieght": "int8"}, "unknown key 'wieght'; did you mean 'weight'"),
    ({"weight": "e4mm3"}, "unknown number format 'e4mm3'; did you mean 'e4m3'"),
    ({"weight": 8}, "write a format as text"),
    ({"weight": "int8 stochastically"}, "unknown rounding 'stochastically'.*did you mean 'stochastic'"),
    ({"base": 9}, "by its name"),
    ({"accumulator": "bananas"}, "unknown accumulator 'bananas'; there is: bf16"),
    ({"swa": {"start": 3, "lr": 0}}, "positive learning rate"),
    ({"weight": "a\0.py:X"}, "no such file"),
    ({"base": "fp9"}, "unknown precision 'fp9'; did you mean 'fp8'"),
    ({"rule": {"layers": ["fc"], "weight": "fp32"}}, "list of tables"),
    ({"rule": [{"layers": ["fc"], "wieght": "fp32"}]}, "unknown key 'wieght'"),
    ({"rule": [{"layers": ["fc"]}]}, "sets no role"),
    ({"rule": [{"layers": [3], "weight": "fp32"}]}, "list of names or globs"),
    ({"rule": [{"phase": "dgrad", "error": "fp32"}]}, "unknown phase 'dgrad'"),
    ({"rule": [{"phase": "forward", "error": "fp32"}]}, "'error' plays no part in the forward pass"),
    ({"stored": "int8"}, "stop moving.*stochastic"),
    ({"stored": "e4m3 nearest"}, "stop moving"),
    ({"one_dimensional": "bfp8"}, "stop moving"),
    ({"rule": [{"layers": ["fc"], "stored": "int8"}]}, "stop moving"),
    ({"swa": {"start": 1.5}}, "neither an epoch"),
    ({"swa": {"begin": 3}}, "unknown key 'begin'"),
    ({"swa": 3}, "expected a table"),
    ({"allow_stalling": "yes"}, "true or false"),
]


@pytest.mark.parametrize("table, message", WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_wrong_tables_are_refused_with_the_cure(table: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        backend({"name": "mine", **table})


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        backend({"name": "mine", "weight": "e4mm3", "rule": [{"weight": "int8"}, {"phase": "x", "error": 3}]})
    keys = [line.split(":")[0] for line in str(caught.value).splitlines()]
    assert keys == [f"precision backend 'mine', {key}" for key in ("weight", "rule.1.phase", "rule.1.error")]


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["fp8", "int8/row stochastic", "x.py:Y"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(KEYS)), inner, max_size=3),
    max_leaves=6,
)


@given(_anything)
def test_no_table_is_a_bug(table: object) -> None:
    made, problems = parse_backend("mine", table)
    assert (made is None) == bool(problems)
    if made is not None:
        made.table(LAYERS[:0])


def test_accumulators_are_those_that_have_a_price() -> None:
    for name in ACCUMULATORS:
        assert parse_precision(record({"weight": "int8", "accumulator": name}, LAYERS)).default.accumulator.name == name


def test_stalling_weights_are_allowed_only_when_asked_for() -> None:
    assert backend({"stored": "int8", "allow_stalling": True}).roles["stored"].spec == "int8"
    assert backend({"stored": "bf16"}).roles["stored"].spec == "bf16"  # 16 bits do not stall at once


def test_first_rule_wins_per_cell_and_children_come_before_their_base() -> None:
    made = backend(
        {
            "name": "mine",
            "base": "fp8",
            "error": "bf16",
            "rule": [
                {"layers": ["p*"], "phase": "weight_gradient", "error": "fp32"},
                {"layers": ["p*", "@last"], "error": "e5m2 stochastic"},
            ],
        },
    )
    cells = {name: {cell: str(o) for cell, o in row.items()} for name, row in made.table(LAYERS).items()}
    assert cells["point"]["weight_gradient", "error"] == "fp32"
    assert cells["point"]["input_gradient", "error"] == "e5m2 stochastic"
    assert cells["fc"]["input_gradient", "error"] == "e5m2 stochastic"  # before the base's rule for the last layer
    assert cells["fc"]["forward", "weight"] == "fp32"  # which still sets the rest
    assert cells["body"]["input_gradient", "error"] == "bf16" and cells["body"]["forward", "weight"] == "e4m3"
    assert {tuple(row) for row in cells.values()} == {CELLS}


def test_a_rule_that_matches_nothing_is_refused() -> None:
    made = backend({"weight": "int8", "rule": [{"layers": ["fc", "fcc"], "weight": "fp32"}]})
    with pytest.raises(ConfigError, match="matches no layer: 'fcc'; did you mean 'fc'"):
        made.table(LAYERS)
    assert made.untouched is False and backend("fp32").untouched


def test_names_cost_no_torch() -> None:
    code = (
        "import sys; from ebsim.precision import backend, list_backends, list_formats, record;"
        "list_formats(); [record(backend(n), ['a', 'b', 'c']) for n in list_backends()];"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", list_backends())
def test_the_record_is_plain_json_and_says_what_the_layers_do(name: str) -> None:
    chosen = backend(name)
    made = record(chosen, LAYERS)
    assert json.loads(json.dumps(made)) == made and made["schema"] == 2 and made["name"] == name
    assert made.get("covered", LAYERS) == LAYERS
    for layer, cells in chosen.table(LAYERS).items():
        entry = made["layers"].get(layer, made["default"] | {"update": made["update"]})
        for phase, roles in PASSES.items():
            for role in roles:
                if role == "second_moment":  # SGD has none
                    assert role not in entry[phase]
                    continue
                said = entry[role] if role in ("output", "activation_gradient") else entry[phase][role]
                done = cells[phase, role]
                if role == "weight" and done.untouched:  # kept in a low precision: on its grid in every pass
                    done = cells["update", "stored"]
                assert said == done.format.name
                assert made["formats"][said] == done.format.describe()


NEAREST3 = {
    "forward": {"weight": "nearest", "activation": "nearest", "output": "nearest"},
    "input_gradient": {"error": "nearest"},
}


def test_records_of_the_presets() -> None:
    fp8 = record("fp8", LAYERS)
    assert fp8["default"] == {
        "forward": {"weight": "e4m3", "activation": "e4m3"},
        "input_gradient": {"weight": "e4m3", "error": "e5m2"},
        "weight_gradient": {"activation": "e4m3", "error": "e5m2"},
        "accumulator": "fp32",
        "output": "bf16",
        "activation_gradient": "fp32",
    }
    assert sorted(fp8["layers"]) == ["fc", "stem"]  # charged as what they are
    assert fp8["layers"]["fc"]["quantise"] == {} and fp8["quantise"] == NEAREST3
    only = record({"rule": [{"layers": ["fc"], "error": "e5m2 stochastic"}]}, LAYERS)
    assert list(only["layers"]) == ["fc"] and only["quantise"] == {}
    assert only["layers"]["fc"]["quantise"] == {"input_gradient": {"error": "stochastic"}}
    assert record("fp32", LAYERS)["quantise"] == {} and record("fp32", LAYERS)["layers"] == {}
    int8 = record("int8", LAYERS)
    assert int8["default"]["accumulator"] == "int32" and int8["layers"]["fc"]["accumulator"] == "fp32"
    assert int8["quantise"] == NEAREST3 | {"input_gradient": {"error": "stochastic"}}
    bfp8 = record("bfp8", LAYERS)
    assert list(bfp8["layers"]) == ["fc"] and bfp8["layers"]["fc"]["output"] == "fp32"
    assert bfp8["default"]["output"] == bfp8["default"]["activation_gradient"] == "bfp8"
    assert bfp8["update"]["stored"] == "bfp8" and bfp8["update"]["one_dimensional"] == "fp32"
    eb2020 = record("eb2020", LAYERS)
    assert eb2020["default"]["forward"] == {"weight": "bfp8", "activation": "fp32"}  # not an 8 x 8 bit product
    assert eb2020["default"]["output"] == "bfp8" and eb2020["layers"]["fc"]["output"] == "fp32"
    assert eb2020["quantise"]["update"]["one_dimensional"] == "stochastic"
    mx = record("mxfp8", LAYERS)["quantise"]  # blocks run along another axis in each pass: rounded anew
    assert mx["weight_gradient"] == {"activation": "nearest", "error": "nearest"}
    assert mx["input_gradient"] == {"weight": "nearest", "error": "nearest"}


def test_what_is_frozen_or_not_reached_is_said() -> None:
    frozen = record("eb2020", LAYERS, frozen=["body"])["layers"]["body"]
    assert frozen["forward"]["weight"] == "fp32" and frozen["update"]["stored"] == "fp32"
    assert "update" not in frozen["quantise"]
    made = record("bf16", LAYERS, pointwise={"bn1": backend("bf16").pointwise_cells("bn1", "norm")})
    assert made["pointwise"]["bn1"]["forward"] == made["pointwise"]["bn1"]["backward"] == "bf16"


def test_the_plan_shows_every_layer_and_pass_without_training() -> None:
    net = Small().to("meta")
    made = plan(net, {"base": "fp8", "rule": [{"layers": ["point"], "phase": "weight_gradient", "error": "bf16"}]})
    rows = {row["layer"]: row for row in made.rows()}
    assert list(rows) == LAYERS and all(f"{phase}/{role}" in rows["fc"] for phase, role in CELLS)
    assert rows["point"]["weight_gradient/error"] == "bf16" and rows["point"]["input_gradient/error"] == "e5m2"
    assert rows["stem"]["forward/weight"] == "fp32" and rows["body"]["weight shape"] == "16x2x3x3"
    text = str(made)
    assert "e4m3 * bf16" in text and "bf16 16, e4m3 8" in text


def test_lists_name_everything() -> None:
    assert {"fp32", "bf16", "fp16", "e4m3", "e5m2", "int8", "bfp8", "mxfp8", "mxint8"} <= set(list_formats())
    assert {"fp32", "bf16", "fp8", "int8", "bfp8", "eb2020"} <= set(list_backends())
