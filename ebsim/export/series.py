"""Curves of a run for other tools: for every row of its results the metrics and modelled energy after each epoch.

The epochs of a row are those of its ledger: the search, then the retraining, in the order in which they were executed;
`step` counts them from 1, whatever their number in the schedule. The joules of a ledger entry are spread over its
epochs by what each executed (training and test images), so the last point of the energy is that of the row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ebsim.errors import DamagedError
from ebsim.files import read_json

TAGS = {
    "lr": "train/lr", "loss": "train/loss", "accuracy": "train/accuracy", "test_loss": "test/loss",
    "test_accuracy": "test/accuracy", "test_top5": "test/top5", "average_accuracy": "test/averaged_weights_accuracy",
    "seconds": "time/seconds", "measured_joules": "energy/measured_joules",
}  # fmt: skip
"""Column of a curve -> tag."""
JOULES = "energy/modelled_joules"
DISTANCE = "mask/distance"


@dataclass(frozen=True)
class EpochPoint:
    """After one executed epoch. seconds: of training since the first, summed over epochs."""

    step: int
    seconds: float
    values: dict[str, float]


@dataclass(frozen=True)
class Series:
    """One row of a run (or one stage of a running one). facts: what a tracker shows beside the curves."""

    name: str
    points: tuple[EpochPoint, ...]
    facts: dict[str, Any] = field(default_factory=dict)


def series_of(folder: Path) -> list[Series]:
    """The rows of a finished run. Raises `DamagedError` for a folder that is none."""
    results, curves, masks = (read_json(folder / f"{name}.json") for name in ("results", "curves", "masks"))
    common = {
        "run": folder.name, "dataset": results["dataset"]["label"], "network": results["network"]["label"],
        "seed": results["seed"], "accelerator": results["hardware"],
    }  # fmt: skip
    out: list[Series] = []
    for row in results["rows"]:
        name = row["label"] + (f" p={row['ratio']:g}" if row["ratio"] is not None else "")
        taken = sum(one.name == name or one.name.startswith(f"{name} #") for one in out)
        facts = {
            key: row[key] for key in ("method", "ratio", "epoch_drawn", "accuracy", "parameters", "macs", "precision")
        }
        points = tuple(_points(row, curves, masks, folder))
        out.append(Series(f"{name} #{taken + 1}" if taken else name, points, {**common, **facts}))
    return out


def _points(
    row: Mapping[str, Any], curves: Mapping[str, Any], masks: Mapping[str, Any], folder: Path
) -> Iterator[EpochPoint]:
    joules = seconds = 0.0
    step = 0
    distances = _distances(row, masks)
    for number, (entry, energy) in enumerate(zip(row["ledger"], row["energy"]["stages"], strict=True)):
        if entry["stage"] == "score":  # batches that are scored, no epochs
            joules += energy["joules"]
            continue
        dense = number == 0 and row["trajectory"] is not None
        epochs = _epochs(curves[row["trajectory"] if dense else row["curve"]], entry, from_start=dense)
        if sum(epoch["images"] for epoch in epochs) != entry["images"]:
            raise DamagedError(f"{folder}: the curve of {row['label']} is not what its ledger says was executed.")
        for epoch in epochs:
            step += 1
            seconds += epoch["seconds"]
            joules += energy["train"] * epoch["images"] / entry["images"] + energy["mask"] / len(epochs)
            tested = epoch.get("test_images", 0) + (epoch["test_images"] if "average_images" in epoch else 0)
            joules += energy["evaluate"] * tested / entry["eval_images"] if entry["eval_images"] else 0.0
            values = {tag: float(epoch[key]) for key, tag in TAGS.items() if epoch.get(key) is not None}
            values[JOULES] = joules
            if dense and epoch["epoch"] <= len(distances):
                values[DISTANCE] = distances[epoch["epoch"] - 1]
            yield EpochPoint(step, seconds, values)


def _epochs(curve: Sequence[Mapping[str, Any]], entry: Mapping[str, Any], *, from_start: bool) -> Sequence[Any]:
    """The epochs of a ledger entry: the first ones of a dense training, the last ones of what follows it."""
    count = entry["epochs"]
    return curve[:count] if from_start else curve[len(curve) - count :]


def _distances(row: Mapping[str, Any], masks: Mapping[str, Any]) -> list[float]:
    """Mask distances of the row's ratio, from epoch 1 on; none where it has no search."""
    known = masks.get(row["trajectory"] or "", {}).get("ratios", {})
    found = next((masks for key, masks in known.items() if float(key) == row["ratio"]), None)
    return list(found["distances"]) if found and row["epoch_drawn"] is not None else []


def stage_series(stage: Path) -> Series | None:
    """What a training stage that may still go on has in its newest checkpoint; None where there is none yet.

    Reads the header of the file only. No energy: a stage alone is not priced.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(stage / "last.safetensors"), framework="numpy") as handle:
            curve = json.loads((handle.metadata() or {})["meta"])["curve"]
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    seconds, points = 0.0, []
    for step, epoch in enumerate(curve, start=1):
        seconds += epoch["seconds"]
        values = {tag: float(epoch[key]) for key, tag in TAGS.items() if epoch.get(key) is not None}
        points.append(EpochPoint(step, seconds, values))
    return Series(stage.name, tuple(points), {"stage": stage.name})
