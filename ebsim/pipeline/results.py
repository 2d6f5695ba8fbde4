"""The content of a run's result files: rows with their counts and energies, and the mask distances of dense trainings.

The layout of these files is docs/run-folder.md.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from ebsim import tickets
from ebsim.experiment.context import ExperimentContext
from ebsim.experiment.result import MethodResult
from ebsim.experiment.training_stages import emergence
from ebsim.pricing import paper_widths
from ebsim.pricing.format_check import missing_in_ledgers
from ebsim.pricing.price import price
from hw_models import Accelerator
from hw_models.workload.layer import Layer
from hw_models.workload.op_counts import paper_gflops, paper_pflops, step_macs

SCHEMA = 1


def results(context: ExperimentContext, rows: list[MethodResult], chip: Accelerator) -> dict[str, Any]:
    """The content of `results.json` (all but the wall-clock figures)."""
    experiment = context.experiment
    context.workload("dense", context.dense_network)
    hardware = experiment.hardware
    plain = [row.to_dict() for row in rows]
    priced = price(plain, context.networks, chip, reuse=hardware.reuse, hypothetical=hardware.hypothetical)
    return {
        "schema": SCHEMA,
        "name": experiment.name,
        "seed": experiment.seed,
        "dataset": {
            "name": context.data.name,
            "label": context.data.label,
            "classes": context.data.classes,
            "shape": list(context.data.shape),
            "train_images": context.data.train_images,
            "test_images": context.data.test_images,
            "digest": context.data.digest,
        },
        "network": {
            "name": context.spec.name,
            "depth": context.spec.depth,
            "label": context.spec.label,
            "channels": sum(context.layers.values()),
            **context.facts["dense"],
        },
        "train": experiment.train.model_dump(mode="json"),
        "prune": {**experiment.prune.model_dump(mode="json"), "ratios": list(experiment.prune.ratio)},
        "hardware": hardware.profile,
        "hypothetical": missing_in_ledgers(chip, [row.ledger for row in rows], context.networks),
        "reuse": hardware.reuse,
        "rows": [
            {**line, **_counts(context, row, line["energy"]["macs"])} for row, line in zip(rows, priced, strict=True)
        ],
    }


def _counts(context: ExperimentContext, row: MethodResult, macs: float) -> dict[str, Any]:
    """Parameters and MACs of a row: of the network it ends with, and of its training (`macs`)."""
    final = context.facts[row.network or row.ledger[-1]["network"]]
    sparse = sum(_sparse_macs(entry, _table(context, entry["network"])) for entry in row.ledger)
    notes = list(row.notes)
    if row.weights_kept is not None:
        notes.append(
            f"single weights are pruned, and nothing is credited for it (as in the paper); an ideal sparse machine "
            f"would need {sparse / macs:.0%} of these training MACs"
        )
    return {
        "notes": notes,
        "parameters": final["parameters"],
        "macs": final["macs"],
        "train_macs": macs,
        "train_flops": 2 * macs,
        "train_macs_sparse": sparse,
        "train_pflops_paper": _paper_pflops(context, row),
    }


def _paper_pflops(context: ExperimentContext, row: MethodResult) -> float | None:
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
        layers = _table(context, key)
        if context.prune.gating == "authors" and key in context.masks:
            layers = paper_widths.layers(context.spec.name, _table(context, "dense"), context.masks[key]) or layers
        gflops = paper_gflops(layers)
        if gflops == 0:
            return None
        total += paper_pflops([(entry["epochs"], gflops)], entry["images_per_epoch"])
    return total


def _table(context: ExperimentContext, network: str) -> list[Layer]:
    return [Layer.from_dict(layer) for layer in context.networks[network]]


def _sparse_macs(entry: dict[str, Any], layers: list[Layer]) -> float:
    """Training MACs of an entry if none were spent on masked weights: what an ideal sparse machine would need.

    `Layer.op` is the dotted name of a convolution or linear layer.
    """
    density = entry.get("density", {})
    return entry["images"] * sum(step_macs([layer]) * density.get(layer.op, 1.0) for layer in layers)


def masks(context: ExperimentContext) -> dict[str, Any]:
    """The content of `masks.json`: distances, emergence and the epoch x epoch map of every dense trajectory."""
    out: dict[str, Any] = {}
    for trajectory in context.trajectories.values():
        if trajectory.stage.identity["kind"] != "dense":
            continue
        gammas = trajectory.gammas[: context.epochs + 1]
        ratios: dict[str, Any] = {}
        least, ignore = context.prune.min_channels, context.prune.ignore
        for ratio in context.prune.ratio:
            drawn = [tickets.masks_from_gammas(row, context.layers, ratio, least, ignore=ignore) for row in gammas]
            ratios[_key(ratio)] = {
                "distances": [new.distance(old) for old, new in pairwise(drawn)],
                "emerged": emergence(context, gammas, ratio)[0],
                "map": tickets.distance_map(gammas, context.layers, ratio, ignore=ignore).tolist(),
            }
        ignored = {"ignored": list(drawn[0].ignored)} if ignore else {}
        out[trajectory.stage.id] = {
            "channels": gammas.shape[1], "layers": dict(context.layers), **ignored, "ratios": ratios,
        }  # fmt: skip
    return out


def _key(ratio: float) -> str:
    """A prune ratio as a key: short where that is exact, so that no two ratios have the same."""
    return f"{ratio:g}" if float(f"{ratio:g}") == ratio else repr(ratio)
