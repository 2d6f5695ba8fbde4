"""The cost of a step: conservation, monotony, invariance, and a frozen table."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hw_models
from hw_models import FormatError, HardwareError, Layer, load, training_cost
from hw_models.analysis import commands
from hw_models.cost.step_cost import COMPONENTS, STAGES
from hw_models.cost.training_step import MODELS
from hw_models.errors import ConservationError
from hw_models.workload import reference_networks
from hw_models.workload.op_counts import step_macs

GOLDEN = Path(__file__).parents[1] / "golden" / "hw_vgg16_step.json"
NET = reference_networks.vgg16(10)[:12]
PROFILES = ["horowitz-45nm", "tpu-like-7nm", "eyeriss-like-65nm", "bitfusion-45nm", "jetson-tx2", "h100"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("profile", PROFILES)
def test_rows_sum_to_totals(profile: str, model: str) -> None:
    chip = load(profile)
    cost = training_cost(NET, chip, chip.widest, 32, model)
    rows = cost.rows
    for total, parts in (
        (cost.total, [r["joules"] for r in rows]),
        (cost.bytes, [r["dram_bytes"] for r in rows]),
        (cost.macs, [r["macs"] for r in rows]),
        (cost.seconds, [r["seconds"] for r in rows]),
    ):
        assert total == pytest.approx(sum(parts), rel=1e-9)
    for row in rows:
        assert row["joules"] == pytest.approx(sum(row[c] for c in COMPONENTS), rel=1e-9)
    for view in (cost.components, cost.passes, cost.layers, cost.by_constant):
        assert sum(view.values()) == pytest.approx(cost.total, rel=1e-9)
    assert cost.macs == 32 * step_macs(NET)
    assert set(cost.passes) == set(STAGES)


def test_a_lost_row_is_noticed() -> None:
    cost = training_cost(NET, "horowitz-45nm")
    part = replace(cost.parts[0], component="static")
    broken = replace(cost, parts=(replace(part, counts=part.counts * np.nan), *cost.parts[1:]))
    with pytest.raises(ConservationError):
        broken.check()


@pytest.mark.parametrize("profile", PROFILES)
def test_each_rung_of_the_ladder_costs_more(profile: str) -> None:
    chip = load(profile)
    macs, compulsory, closed, search = (
        training_cost(reference_networks.resnet18(), chip, chip.widest, 64, m).total for m in MODELS
    )
    assert macs < compulsory < closed * (1 + 1e-12) and compulsory < search * (1 + 1e-12)
    assert search == pytest.approx(closed, rel=0.15)


def test_the_order_of_layers_changes_nothing() -> None:
    rows = reference_networks.resnet18()
    shuffled = rows[:]
    random.Random(0).shuffle(shuffled)
    for model in ("closed", "search"):
        a, b = (training_cost(r, "horowitz-45nm", model=model) for r in (rows, shuffled))
        assert a.total == pytest.approx(b.total, rel=1e-12)
        assert a.layers == pytest.approx(b.layers, rel=1e-9)


def test_names_change_nothing() -> None:
    renamed = [replace(r, name=f"r{i}", sources=()) for i, r in enumerate(NET)]
    assert training_cost(renamed, "horowitz-45nm").total == training_cost(NET, "horowitz-45nm").total


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from(["horowitz-45nm", "tpu-like-7nm", "jetson-tx2"]))
def test_a_larger_batch_costs_more_in_all_and_less_per_image(a: int, b: int, profile: str) -> None:
    small, large = sorted((a, b))
    few, many = (training_cost(NET, profile, batch=n) for n in (small, large))
    assert few.total <= many.total * (1 + 1e-9)
    assert few.bytes / small >= many.bytes / large * (1 - 1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 31), st.integers(1, 8), st.sampled_from(["horowitz-45nm", "tpu-like-7nm", "bitfusion-45nm"]))
def test_more_bits_never_cost_less(bits: int, more: int, profile: str) -> None:
    few, many = (training_cost(NET, profile, n, hypothetical=True) for n in (bits, min(bits + more, 31)))
    assert few.total <= many.total * (1 + 1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 256), st.integers(1, 64))
def test_more_channels_never_cost_less(k: int, more: int) -> None:
    def conv(width: int) -> list[Layer]:
        return [
            Layer(
                "c",
                "conv",
                macs=width * 64 * 16 * 9,
                inputs=16 * 64,
                outputs=width * 64,
                weights=16 * 9 * width,
                channels=(16, width),
                size=(8, 8),
                out=(8, 8),
                kernel=(3, 3),
            )
        ]

    narrow, wide = (training_cost(conv(n), "horowitz-45nm") for n in (k, k + more))
    assert narrow.total <= wide.total * (1 + 1e-9)


def test_a_smaller_buffer_never_costs_less_at_the_same_constants() -> None:
    chip = load("horowitz-45nm")
    costs = [
        training_cost(
            reference_networks.resnet18(), replace(chip, memories=(replace(chip.memories[0], bits=kib * 8192),))
        )
        for kib in (16, 64, 256, 1024, 4096, 65536)
    ]
    assert all(a.total >= b.total * (1 - 1e-9) for a, b in itertools.pairwise(costs))


def test_precision_reaches_only_the_layers_it_names() -> None:
    record = {"default": {}, "layers": {"conv1.0": {"forward": {"weight": "int8", "activation": "int8"}}}}
    mixed, full = (training_cost(NET, "horowitz-45nm", r) for r in (record, None))
    cheaper = [n for n in full.layers if mixed.layers[n] < full.layers[n] * (1 - 1e-9)]
    assert cheaper == ["conv1.0"]


def test_quantizers_work_only_where_something_is_quantized() -> None:
    plain = training_cost(NET, "horowitz-45nm")
    assert plain.components["quantiser"] == 0
    eight = training_cost(NET, "horowitz-45nm", 8)
    assert 0 < eight.components["quantiser"] < 0.01 * eight.total
    stochastic = {"default": {"input_gradient": {"error": "int8"}}, "quantise": {"error": "stochastic"}}
    cost = training_cost(NET, "horowitz-45nm", stochastic)
    errors = sum(r.outputs for r in NET if r.kind == "conv" and not r.first) * 256  # no pass of the first one reads it
    assert cost.by_constant["op.random"] == pytest.approx(errors * 0.5e-12)


def test_layers_left_in_fp32_are_not_quantized() -> None:
    every = {"weight": "int8", "activation": "int8"}
    record = {
        "default": {"forward": every},
        "layers": {r.name: {"forward": {"weight": "fp32", "activation": "fp32"}} for r in NET},
        "quantise": {"activation": "nearest"},
    }
    assert training_cost(NET, "horowitz-45nm", record).components["quantiser"] == 0
    update = {"default": {}, "quantise": {"momentum": "stochastic"}}
    random_ops = training_cost(NET, "horowitz-45nm", update).by_constant["op.random"]
    matrices = sum(
        r.channels[0] * r.channels[1] // r.groups * r.kernel[0] * r.kernel[1]
        for r in NET
        if r.kind in ("conv", "linear")
    )
    assert random_ops == pytest.approx(matrices * 0.5e-12)


def test_rounding_an_output_is_work_but_moves_nothing() -> None:
    rounded = {"default": {"output": "bf16"}, "quantise": {"output": "stochastic"}}
    cost, plain = (training_cost(NET, "horowitz-45nm", r) for r in (rounded, {**rounded, "quantise": {}}))
    made = sum(r.outputs for r in NET if r.kind in ("conv", "linear")) * 256
    assert cost.by_constant["op.random"] == pytest.approx(made * 0.5e-12)
    assert cost.components["dram"] == plain.components["dram"] and plain.components["quantiser"] == 0


def test_the_update_moves_what_the_optimizer_touches() -> None:
    """SGD with momentum, fp32: read gradient, momentum, weight, write momentum, weight = 20 bytes a parameter."""
    rows = [r for r in training_cost(NET, "horowitz-45nm", batch=1).rows if r["pass"] == "update"]
    assert sum(r["dram_bytes"] for r in rows) == 20 * sum(r.weights for r in NET)
    again = [r for r in training_cost(NET, "horowitz-45nm", batch=512).rows if r["pass"] == "update"]
    assert sum(r["dram_bytes"] for r in again) == 20 * sum(r.weights for r in NET)


def test_the_l1_term_adds_one_operation_per_scale() -> None:
    with_l1, without = (training_cost(NET, "horowitz-45nm", l1=flag).by_constant["op.add"] for flag in (True, False))
    gammas = sum(r.channels[1] for r in NET if r.kind == "bn")
    assert with_l1 - without == pytest.approx(gammas * 0.9e-12, rel=1e-6)


def test_seconds_are_a_roofline() -> None:
    chip = load("tpu-like-7nm")
    cost = training_cost(reference_networks.resnet18(), chip)
    peak = np.prod(chip.dims) * chip.clock_hz
    assert cost.seconds >= cost.macs / peak and cost.seconds >= cost.bytes * 8 / chip.dram_bits_per_s
    fused = training_cost(NET, "bitfusion-45nm", 4).row_seconds.sum()
    assert fused < training_cost(NET, "bitfusion-45nm", 8).row_seconds.sum()


def test_a_device_refuses_what_it_lacks() -> None:
    with pytest.raises(FormatError, match=r"jetson-tx2 has no int8.*hypothetical=True"):
        training_cost(NET, "jetson-tx2", 8)
    assert training_cost(NET, "jetson-tx2", 8, hypothetical=True).total > 0


@pytest.mark.parametrize("batch", [0, -1, float("nan"), float("inf")])
def test_a_batch_that_is_none_is_refused(batch: float) -> None:
    with pytest.raises(HardwareError, match="batch is"):
        training_cost(NET, "horowitz-45nm", batch=batch)


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(HardwareError, match=r"guess.*macs, compulsory, closed, search"):
        training_cost(NET, "horowitz-45nm", model="guess")


def test_an_empty_network_costs_nothing() -> None:
    assert training_cost([], "horowitz-45nm").total == 0


def test_fused_kinds_move_nothing() -> None:
    chip = load("horowitz-45nm")
    plain = training_cost(NET, chip)
    fused = training_cost(NET, replace(chip, fused=("relu",)))
    relu = sum(r.outputs for r in NET if r.kind == "relu") * 256 * 4
    assert plain.bytes - fused.bytes == pytest.approx(relu * (2 + 3), rel=1e-9)


def test_the_frozen_step() -> None:
    """VGG16 at batch 256 on the shipped profiles; regenerate with  python benchmarks/hw_golden.py  and say why."""
    frozen = json.loads(GOLDEN.read_text())
    assert frozen["revision"] == hw_models.REVISION
    for profile, cases in frozen["components"].items():
        for case, parts in cases.items():
            bits, model = case.split("/")
            cost = training_cost(
                reference_networks.vgg16(), profile, None if bits == "native" else bits, 256, model, hypothetical=True
            )
            assert cost.components == pytest.approx(parts, rel=1e-6), (profile, case)


def test_time_waits_for_the_array_a_buffer_or_dram() -> None:
    chip, rows = load("horowitz-45nm"), reference_networks.vgg16()
    wide, narrow = (replace(chip, memories=(replace(chip.memories[0], bits_per_cycle=n),)) for n in (1e9, 1.0))
    for slow, name in (
        (replace(wide, clock_hz=1e3), "compute"),
        (replace(chip, dram_bits_per_s=1e6), "dram"),
        (replace(narrow, dram_bits_per_s=1e15), "buffer"),
    ):
        cost = training_cost(rows, slow)
        assert cost.bound == name and sum(cost.bounds.values()) == pytest.approx(cost.seconds)
        assert {r["bound"] for r in cost.rows if r["macs"]} == {name}
        assert commands.breakdown(slow, "vgg16").bound == name


def test_a_quantizer_that_tries_two_scales_does_the_work_of_two() -> None:
    """Per element: compare 1; a scale: multiply (scale, square) 2, integer (round, clamp) 2, add (error, sum) 2."""
    record = {
        "schema": 2,
        "formats": {name: {"bits": 4, "mac": "fp:2,1", "scale_bits": 8, "block": 16, "trials": n}
                    for name, n in (("once", 1), ("twice", 2))},
        "default": {},
    }  # fmt: skip

    def work(fmt: str) -> dict[str, float]:
        given = {
            **record,
            "default": {"forward": {"activation": fmt}},
            "quantise": {"forward": {"activation": "nearest"}},
        }
        cost = training_cost(NET, "horowitz-45nm", given, 1, "compulsory", hypothetical=True)
        return {p.key: float(p.counts.sum()) for p in cost.parts if p.component == "quantiser"}

    once, twice = work("once"), work("twice")
    n = once["op.compare"]
    assert once == {"op.compare": n, "op.multiply": n, "op.integer": 2 * n, "op.random": 0}
    assert twice == {"op.compare": n, "op.multiply": 4 * n, "op.integer": 4 * n, "op.add": 4 * n, "op.random": 0}
