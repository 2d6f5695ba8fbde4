"""Forward passes without a gradient, against the sums written out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hw_models
from hw_models import Layer, LedgerError, load, price, training_cost
from hw_models.cost.inference import evaluating, forward_cost
from hw_models.errors import ConservationError
from hw_models.workload import reference_networks
from hw_models.workload.shapes import shapes

CHIP = load("horowitz-45nm")
N = 7  # images of a batch


def _tiny() -> list[Layer]:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AvgPool2d(5),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    return hw_models.trace(model, (3, 5, 5))


def _by_hand(*, statistics: bool, bits: int = 32) -> dict[str, float]:
    """Joules by component of one forward pass of `_tiny`, every tensor once per use (the model `compulsory`)."""
    image, feature, pooled, out = 3 * 25, 4 * 25, 4, 2
    kernel, matrix = 4 * 3 * 9, 4 * 2
    macs = N * (25 * kernel + matrix)
    multiply = N * (feature * (2 if statistics else 1) + pooled + 4 * out)
    add = N * (feature * (3 if statistics else 1) + feature + 8 * out)
    compare = N * feature
    moved = (
        kernel
        + matrix
        + N
        * (
            image
            + feature  # convolution
            + (3 if statistics else 2) * feature  # BatchNorm: once more for the statistics
            + 2 * feature
            + feature
            + pooled  # ReLU, average
            + pooled
            + out
            + 3 * out
        )
    )  # linear layer, loss
    c = {key: n.value * 1e-12 for key, n in CHIP.constants.items()}
    return {
        "mac": macs * c["mac.fp32"],
        "dram": moved * bits * c["dram.pj_per_bit"],
        "vector": multiply * c["op.multiply"] + add * c["op.add"] + compare * c["op.compare"],
        "static": 0.0,
    }


@pytest.mark.parametrize("statistics", [False, True])
def test_a_forward_pass_costs_what_the_sum_by_hand_says(statistics: bool) -> None:
    cost = forward_cost(_tiny(), CHIP, None, N, "compulsory", statistics=statistics)
    expected = _by_hand(statistics=statistics)
    expected["static"] = cost.seconds * sum(watts.value for _, watts in CHIP.leakage)  # of the time it takes
    assert {k: v for k, v in cost.components.items() if v} == pytest.approx(expected, rel=1e-12)
    assert cost.total == pytest.approx(sum(expected.values()), rel=1e-12)
    assert {k for k, v in cost.passes.items() if v} == {"forward"}
    assert cost.bytes == pytest.approx(expected["dram"] / (CHIP.dram.value * 1e-12) / 8)
    assert sum(row["joules"] for row in cost.rows) == pytest.approx(cost.total)


@pytest.mark.parametrize("model", ["macs", "compulsory", "closed", "search"])
def test_with_statistics_it_is_the_forward_pass_of_a_training_step(model: str) -> None:
    rows = reference_networks.vgg16(10)[:12]
    for profile in ("horowitz-45nm", "h100"):
        step = training_cost(rows, profile, "fp32", 32, model)
        forward = forward_cost(rows, profile, "fp32", 32, model, statistics=True)
        assert forward.total == pytest.approx(step.passes["forward"], rel=1e-12)
        assert forward.seconds == pytest.approx(float(step.row_seconds[0].sum()))
        evaluation = forward_cost(rows, profile, "fp32", 32, model)
        assert evaluation.macs == forward.macs == 32 * sum(row.macs for row in rows)
        assert evaluation.total < forward.total if model != "macs" else evaluation.total == forward.total


def test_in_evaluation_a_batchnorm_is_a_scale_and_dropout_is_nothing() -> None:
    rows = [*_tiny(), Layer("d", "dropout", inputs=9, outputs=9, channels=(9, 9))]
    table = evaluating(shapes(rows))
    assert "d" not in table.names and len(table.names) == len(rows) - 1
    assert forward_cost(rows, CHIP, batch=N).total == forward_cost(_tiny(), CHIP, batch=N).total
    fused = replace(CHIP, fused=("bn",))
    saved = forward_cost(_tiny(), CHIP, batch=N).bytes - forward_cost(_tiny(), fused, batch=N).bytes
    assert saved == pytest.approx(2 * 100 * N * 4)


def test_only_the_quantizers_of_the_forward_pass_run() -> None:
    """Activations and weights of both layers are; no errors or updates."""
    cost = forward_cost(_tiny(), CHIP, "all bfp8", N, "compulsory")
    elements = N * (3 * 25 + 4) + 4 * 3 * 9 + 4 * 2
    ops = CHIP.ops
    assert cost.components["quantiser"] == pytest.approx(
        elements * (ops["compare"].value + ops["multiply"].value + 2 * ops["integer"].value) * 1e-12
    )
    unquantized = {"default": {"forward": {"weight": "fp32", "activation": "fp32"}}, "quantise": {"error": "nearest"}}
    assert forward_cost(_tiny(), CHIP, unquantized, N).components["quantiser"] == 0


# --- in a ledger --------------------------------------------------------------------------------

ENTRY: dict[str, Any] = {
    "stage": "search",
    "network": "n",
    "precision": "fp32",
    "epochs": 2,
    "batch_size": 16,
    "images_per_epoch": 40,
    "steps_per_epoch": 3,
    "mask_draws": 0,
    "channels": 0,
}


def _bill(**changes: Any) -> Any:
    return price([{**ENTRY, **changes}], {"n": _tiny()}, CHIP)


def test_evaluations_are_passes_of_full_batches_and_a_rest() -> None:
    bill = _bill(eval_images=3 * 25, evaluations=3, batch_size=10, images_per_epoch=0, steps_per_epoch=0)
    each = 2 * forward_cost(_tiny(), CHIP, None, 10).total + forward_cost(_tiny(), CHIP, None, 5).total
    assert bill.stages[0].work["evaluate"] == pytest.approx(3 * each)
    assert bill.joules == pytest.approx(3 * each)
    assert _bill(eval_images=75).stages[0].work["evaluate"] == pytest.approx(  # one pass, in batches of training
        4 * forward_cost(_tiny(), CHIP, None, 16).total + forward_cost(_tiny(), CHIP, None, 11).total
    )


def test_passes_for_statistics_are_training_forwards() -> None:
    found = _bill(statistics_images=32).stages[0].work["evaluate"]
    assert found == pytest.approx(2 * forward_cost(_tiny(), CHIP, None, 16, statistics=True).total)
    assert found > _bill(eval_images=32).stages[0].work["evaluate"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"eval_images": 7, "evaluations": 2}, "eval_images is 7, which 2 evaluations"),
        ({"eval_images": 7, "evaluations": 0}, "which 0 evaluations"),
        ({"statistics_images": -1}, "statistics_images is -1"),
        ({"evaluations": 1.5}, "evaluations is 1.5"),
    ],
)
def test_a_wrong_entry_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(LedgerError, match=words):
        _bill(**changes)


# --- conservation -------------------------------------------------------------------------------


def test_a_bill_that_loses_something_is_refused() -> None:
    bill = _bill(eval_images=30, mask_draws=2, channels=4, masked=True)
    bill.check()
    stage = bill.stages[0]
    assert stage.work["evaluate"] > 0 and stage.work["mask"] > 0
    for broken in (
        replace(stage, work={**stage.work, "mask": 0.0}),
        replace(stage, bytes=stage.bytes * (1 + 1e-6)),
        replace(stage, work={**stage.work, "evaluate": stage.work["evaluate"] * 1.001}),
        replace(stage, components={**stage.components, "vector": float("nan")}),
    ):
        with pytest.raises(ConservationError, match="search"):
            replace(bill, stages=(broken,)).check()


def test_a_cost_that_loses_something_is_refused() -> None:
    cost = forward_cost(_tiny(), CHIP, batch=N)
    for name in ("dram_bits", "row_macs"):
        with pytest.raises(ConservationError, match="charged"):
            replace(cost, **{name: getattr(cost, name) * 2}).check()
    part = cost.parts[-1]
    with pytest.raises(ConservationError):
        replace(cost, parts=(*cost.parts, replace(part, counts=np.full_like(part.counts, np.inf)))).check()


def test_the_traced_network_really_evaluates_that_way() -> None:
    """In evaluation mode torch's BatchNorm is the scale and shift that is priced."""
    norm = nn.BatchNorm2d(4).eval()
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 4, 3, 3)
    a = norm.weight / (norm.running_var + norm.eps).sqrt()
    b = norm.bias - a * norm.running_mean
    torch.testing.assert_close(norm(x), a[:, None, None] * x + b[:, None, None])
