"""The ledger of a training: what was executed, as plain data that the hardware model prices without training.

One entry per stage of a method: which network, which precision, how many epochs, images, evaluations and mask
draws. Counts come from the curve, that is from what the training loop really did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def entry(
    stage: str,
    network: str,
    curve: Sequence[dict[str, Any]],
    precision: Any,
    *,
    batch_size: int,
    draws: int,
    channels: int,
    l1: bool,
    averages: int = 0,
    density: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """A ledger entry for the epochs in `curve` (rows of a trajectory).

    images and steps are totals over those epochs; eval_images counts every image of every one of the `evaluations`,
    that of averaged weights included; statistics_images those of the forward pass that gives averaged weights their
    BatchNorm statistics. averages: epochs after which the weights entered a running mean (SWA), written as
    weight_averages. density: layer -> fraction of its weights that are not masked, where single weights are pruned
    (they meet the mask at every step; no multiplication is saved).
    """
    tested = [row["test_images"] for row in curve if "test_images" in row]
    # A row with averaged weights counts their statistics and their evaluation, on the test set of its own, together.
    averaged = [row for row in curve if "average_images" in row]
    tested += [row["test_images"] for row in averaged]
    return {
        "stage": stage,
        "network": network,
        "precision": precision,
        "epochs": len(curve),
        "batch_size": batch_size,
        "images": sum(row["images"] for row in curve),
        "steps": sum(row["steps"] for row in curve),
        "images_per_epoch": curve[0]["images"] if curve else 0,
        "steps_per_epoch": curve[0]["steps"] if curve else 0,
        "eval_images": sum(tested),
        "evaluations": len(tested),
        "statistics_images": sum(row["average_images"] - row["test_images"] for row in averaged),
        **({"weight_averages": averages} if averages else {}),
        "mask_draws": draws,
        "channels": channels,
        "l1": l1,
        "masked": density is not None,
        **({} if density is None else {"density": dict(density)}),
        **_measured(curve),
    }


def _measured(curve: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a sensor read over these epochs; nothing if none was asked for, None if an epoch has no reading."""
    if not any("measured_joules" in row for row in curve):
        return {}
    readings: list[Any] = [row.get("measured_joules") for row in curve]
    sources = sorted({str(row.get("measured_source", "not measured")) for row in curve})
    whole = None if any(reading is None for reading in readings) else sum(readings)
    return {"measured_joules": whole, "measured_source": "; ".join(sources)}
