"""What a finished run says: rows with their energies, and the mask distances of every dense trajectory.

The layout of these files is docs/run-folder.md.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import hw_models
from ebsim import tickets
from ebsim.experiment.context import Lab
from ebsim.experiment.result import Row
from ebsim.pricing import paper_widths
from ebsim.pricing.profile import lacking_in
from hw_models.workload.layer import Layer
from hw_models.workload.op_counts import paper_gflops, paper_pflops, step_macs

SCHEMA = 1


def results(lab: Lab, rows: list[Row], chip: Any) -> dict[str, Any]:
    """The content of `results.json` (all but the wall-clock figures)."""
    experiment = lab.experiment
    lab.workload("dense", lab.dense_network)
    ledgers = [row.ledger for row in rows]
    energies = hw_models.price_all(
        ledgers,
        lab.networks,
        chip,
        baseline=next((number for number, row in enumerate(rows) if row.method == "dense"), None),
        model=experiment.hardware.reuse,
        hypothetical=experiment.hardware.hypothetical,
    )
    priced = [_priced(lab, row, energy) for row, energy in zip(rows, energies, strict=True)]
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
        "hypothetical": lacking_in(chip, ledgers, lab.networks),
        "reuse": experiment.hardware.reuse,
        "rows": priced,
    }


def _priced(lab: Lab, row: Row, energy: dict[str, Any]) -> dict[str, Any]:
    """A row with what its ledger costs on the accelerator."""
    final = lab.facts[row.network or row.ledger[-1]["network"]]
    sparse = sum(_sparse_macs(entry, _table(lab, entry["network"])) for entry in row.ledger)
    if row.weights_kept is not None:
        row.notes.append(
            f"single weights are pruned, and nothing is credited for it (as in the paper); an ideal sparse machine "
            f"would need {sparse / energy['macs']:.0%} of these training MACs"
        )
    return {
        **row.to_dict(),
        "parameters": final["parameters"],
        "macs": final["macs"],
        "train_macs": energy["macs"],
        "train_flops": 2 * energy["macs"],
        "train_macs_sparse": sparse,
        "train_pflops_paper": _paper_pflops(lab, row),
        "energy": energy,
        "saving_vs_dense": saved(row.accuracy, energy),
    }


def saved(accuracy: float | None, energy: dict[str, Any]) -> float | None:
    """The modelled saving against dense; None without a dense row, and for a method that was not finished."""
    return None if accuracy is None or energy["saving"] is None else energy["saving"]["value"]


def _paper_pflops(lab: Lab, row: Row) -> float | None:
    """Training PFLOPs as the paper counts them; None where a network is too small for its two decimals.

    3 x images x forward GFLOPs rounded to 0.01, summed over the trainings: no scoring, evaluation or mask draws; soft
    filter pruning at what is left of the network in the end. With `prune.gating = "authors"` a ticket has the widths
    that the authors' scripts leave.
    """
    total = 0.0
    for entry in row.ledger:
        if entry["stage"] == "score":
            continue
        key = row.network if entry["stage"] == "soft pruning" and row.network else entry["network"]
        layers = _table(lab, key)
        if lab.experiment.prune.gating == "authors" and key in lab.masks:
            layers = paper_widths.layers(lab.spec.name, _table(lab, "dense"), lab.masks[key]) or layers
        gflops = paper_gflops(layers)
        if gflops == 0:
            return None
        total += paper_pflops([(entry["epochs"], gflops)], entry["images_per_epoch"])
    return total


def _table(lab: Lab, network: str) -> list[Layer]:
    return [Layer.from_dict(layer) for layer in lab.networks[network]]


def _sparse_macs(entry: dict[str, Any], layers: list[Layer]) -> float:
    """Training MACs of an entry if none were spent on masked weights: what an ideal sparse machine would need.

    `Layer.op` is the dotted name of a convolution or linear layer.
    """
    density = entry.get("density", {})
    return entry["images"] * sum(step_macs([layer]) * density.get(layer.op, 1.0) for layer in layers)


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
