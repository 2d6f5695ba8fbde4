"""Synthetic runs with few and with many rows, and runs that make up a grid; invented, but priced by the real model.

`python -m tests.report.many FOLDER ROWS` writes one to look at.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.report import sample

METHODS = {
    # method -> label, letters of its precisions
    "eb-train": ("EB Train", "FF"),
    "eb-train-reinit": ("EB Train re-init", "FF"),
    "eb-train-lf": ("EB Train (LF)", "LF"),
    "eb-train-ll": ("EB Train (LL)", "LL"),
    "random-ticket": ("Random ticket", "FF"),
    "network-slimming": ("Network slimming", "FF"),
    "sfp": ("SFP", "FF"),
    "lottery-ticket": ("Lottery ticket (one-shot)", "FF"),
}
RATIOS = (0.1, 0.3, 0.5, 0.7, 0.8)


def content(rows: int = 40, *, seed: int = 0, blocks: int = 1, low: str = "fp8") -> dict[str, Any]:
    """The files of a run with a dense row and `rows` - 1 others: all ratios of a method, then the next method."""
    files = sample.content(seed, blocks)
    results, networks, curves = files["results.json"], files["networks.json"], files["curves.json"]
    dice = random.Random(seed)
    dense = results["rows"][0]
    made = [dense]
    for method, label, letters, ratio in list(_pairs(max(0, rows - 1))):
        networks.setdefault(f"ticket-{ratio:g}", _with_selections(sample.layers(1 - ratio, blocks)))
        drawn = 9 + round(4 * ratio)
        key = f"{method}-{ratio:g}"
        curves[key] = sample.curve(drawn, sample.EPOCHS, 0.985 - 0.03 * ratio**2 - 0.003 * dice.random(), dice)
        made.append(_row(dense, method, label, letters, ratio, drawn, curves[key], key, low))
    sample.price(made, networks)
    for row in made:
        row["macs"] = sum(layer.get("macs", 0) for layer in networks[_last(row)])
        row["parameters"] = sum(layer.get("weights", 0) for layer in networks[_last(row)])
    results["rows"] = made
    used = {row["curve"] for row in made} | {sample.DENSE}
    files["curves.json"] = {key: curve for key, curve in curves.items() if key in used}
    return files


def _last(row: dict[str, Any]) -> str:
    return str(row["ledger"][-1]["network"])


def _pairs(count: int) -> Iterator[tuple[str, str, str, float]]:
    every = [(method, *facts, ratio) for method, facts in METHODS.items() for ratio in RATIOS]
    yield from every[:count]


def _row(
    dense: dict[str, Any], method: str, label: str, letters: str, ratio: float, drawn: int,
    curve: list[dict[str, Any]], key: str, low: str,
) -> dict[str, Any]:  # fmt: skip
    search, retrain = (low if letter == "L" else "fp32" for letter in letters)
    first = dense["ledger"][0]
    draws = {"mask_draws": drawn, "epochs": drawn, "eval_images": sample.TEST_IMAGES * drawn, "evaluations": drawn}
    rest = sample.EPOCHS - drawn
    again = {"network": f"ticket-{ratio:g}", "epochs": rest, "eval_images": sample.TEST_IMAGES * rest}
    return {
        **dense,
        "method": method,
        "label": label,
        "ratio": ratio,
        "precision": letters,
        "search_precision": search,
        "retrain_precision": retrain,
        "epoch_drawn": drawn,
        "emerged": True,
        "accuracy": curve[-1]["test_accuracy"],
        "best_accuracy": max(point["test_accuracy"] for point in curve),
        "channels_kept": round(7408 * (1 - ratio)),
        "ledger": [
            {**first, **draws, "stage": "search", "precision": search},
            {**first, **again, "stage": "retrain", "precision": retrain, "evaluations": rest, "mask_draws": 0},
        ],
        "curve": key,
    }


def _with_selections(layers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A selection in front of the first convolution of every block, as a shrunk residual network has."""
    out = []
    for layer in layers:
        if layer["name"].endswith(".conv1"):
            name, c, size = f"{layer['name']}_select", layer["channels"][0], layer["size"]
            pixels = size[0] * size[1]
            select = {"name": name, "kind": "select", "inputs": c * pixels, "outputs": c * pixels}
            out.append({**select, "channels": [c, c], "size": size, "out": size, "sources": layer["sources"]})
            layer = {**layer, "sources": [name]}
        out.append(layer)
    return out


if __name__ == "__main__":
    print(sample.write(Path(sys.argv[1]) / f"rows-{sys.argv[2]}", content(int(sys.argv[2]), blocks=11)))
