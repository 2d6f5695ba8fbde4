"""What a finished run says: rows with their energies, and the mask distances of every dense trajectory.

The layout of these files is docs/run-folder.md.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import hw_models
from ebsim import tickets
from ebsim.methods.lab import Lab
from ebsim.methods.row import Row

SCHEMA = 1


def results(lab: Lab, rows: list[Row], chip: Any) -> dict[str, Any]:
    """The content of `results.json` (all but the wall-clock figures)."""
    experiment = lab.experiment
    lab.workload("dense", lab.dense_network)
    priced = [_priced(lab, row, chip) for row in rows]
    dense = next((row["energy"]["joules"] for row in priced if row["method"] == "dense"), None)
    for row in priced:
        whole = dense and row["accuracy"] is not None  # an unfinished method saves nothing
        row["saving_vs_dense"] = 1 - row["energy"]["joules"] / dense if whole else None
    return {
        "schema": SCHEMA,
        "name": experiment.name,
        "seed": experiment.seed,
        "dataset": {
            "name": lab.data.name,
            "label": lab.data.label,
            "classes": lab.data.classes,
            "shape": list(lab.data.shape),
            "train_images": lab.data.train_images,
            "test_images": lab.data.test_images,
            "digest": lab.data.digest,
        },
        "network": {
            "name": lab.spec.name,
            "depth": lab.spec.depth,
            "label": lab.spec.label,
            "channels": sum(lab.layers.values()),
            **lab.facts["dense"],
        },
        "train": experiment.train.model_dump(mode="json"),
        "prune": {**experiment.prune.model_dump(mode="json"), "ratios": list(experiment.prune.ratio)},
        "hardware": experiment.hardware.profile,
        "reuse": experiment.hardware.reuse,
        "rows": priced,
    }


def _priced(lab: Lab, row: Row, chip: Any) -> dict[str, Any]:
    """A row with what its ledger costs on the accelerator."""
    bill = hw_models.price(row.ledger, lab.networks, chip, model=lab.experiment.hardware.reuse)
    bill.check()
    final = lab.facts[row.network or row.ledger[-1]["network"]]
    return {
        **row.to_dict(),
        "parameters": final["parameters"],
        "macs": final["macs"],
        "train_macs": bill.macs,
        "train_flops": 2 * bill.macs,
        "train_macs_sparse": sum(_sparse_macs(entry, lab.networks[entry["network"]]) for entry in row.ledger),
        "train_pflops_paper": None,
        "energy": bill.to_dict(),
    }


def _sparse_macs(entry: dict[str, Any], layers: list[dict[str, Any]]) -> float:
    """Training MACs of an entry if none were spent on masked weights: what an ideal sparse machine would need.

    Forward and both backward passes; the first layer has no input gradient.
    """
    density = entry.get("density", {})
    image = sum(
        layer.get("macs", 0) * (2 if layer.get("first") else 3) * density.get(layer.get("op", ""), 1.0)
        for layer in layers
    )
    return image * entry["images"]


def masks(lab: Lab) -> dict[str, Any]:
    """The content of `masks.json`: distances, emergence and the epoch x epoch map of every dense trajectory."""
    out: dict[str, Any] = {}
    for trajectory in lab.trajectories.values():
        if trajectory.stage.identity["kind"] != "dense":
            continue
        gammas = trajectory.gammas[: lab.epochs + 1]
        ratios: dict[str, Any] = {}
        for ratio in lab.experiment.prune.ratio:
            drawn = [
                tickets.masks_from_gammas(row, lab.layers, ratio, lab.experiment.prune.min_channels) for row in gammas
            ]
            ratios[f"{ratio:g}"] = {
                "distances": [new.distance(old) for old, new in pairwise(drawn)],
                "emerged": lab.emergence(gammas, ratio)[0],
                "map": tickets.distance_map(gammas, lab.layers, ratio).tolist(),
            }
        out[trajectory.stage.id] = {"channels": gammas.shape[1], "layers": dict(lab.layers), "ratios": ratios}
    return out
