"""What low precisions do to a ticket, from the run folders of experiments/four-bit.toml: one JSON file and a table.

    python benchmarks/four_bit.py RUNS_DIR [--floor-epochs 10] [--out docs/results/four-bit-digits.json]

Of every finished run: accuracies, epochs of the draw, modelled energies on a 7 nm array and a B200, and the distance of
the mask that a low-precision search draws from fp32's of the same seed. Beside them the floor: masks of fp32 searches
that differ in the seed, and (trained here) in the order of the data alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ebsim import data, models, tickets
from ebsim.training import TrainStep, make_optimizer, train_epoch

ORDER = ("bf16", "fp8_bf16", "nvfp4", "mxfp4", "int4_all")
PROFILES = ("tpu-like-7nm", "b200")
RATIO = 0.5


def gammas(runs: Path, trajectory: str) -> Tensor:
    """The scales before the first and after every epoch of a search, [epochs + 1, channels]."""
    return load_file(runs / "stages" / trajectory / "last.safetensors")["gammas"]


def layers_of(run: Path) -> dict[str, int]:
    found = next(iter(json.loads((run / "masks.json").read_text()).values()))["layers"]
    return {name: int(n) for name, n in found.items()}


def distance(a: Tensor, b: Tensor, layers: dict[str, int]) -> float:
    one, other = (tickets.masks_from_gammas(x, layers, RATIO) for x in (a, b))
    return round(float(one.distance(other)), 4)


def priced(run: Path, runs: Path) -> list[dict[str, Any]]:
    """The run's results on every profile."""
    command = [sys.executable, "cli.py", "energy", run.name, "--runs-dir", str(runs), "--hypothetical", "--json"]
    hardware = [word for name in PROFILES for word in ("--hw", name)]
    made = subprocess.run([*command, *hardware], capture_output=True, text=True, check=True)
    return list(json.loads(made.stdout))


def rows_of(run: Path, runs: Path, low: str, seed: int) -> Iterable[dict[str, Any]]:
    layers, prices = layers_of(run), priced(run, runs)
    rows = prices[0]["rows"]
    full = next(row for row in rows if row["method"] == "eb-train")
    base = gammas(runs, full["trajectory"])
    for i, row in enumerate(rows):
        found = {
            "low": low,
            "seed": seed,
            "method": row["method"],
            "search": row["search_precision"],
            "retrain": row["retrain_precision"],
            "accuracy": row["accuracy"],
            "drawn": row["epoch_drawn"],
            "joules": {
                name: round(p["rows"][i]["energy"]["joules"], 3) for name, p in zip(PROFILES, prices, strict=True)
            },
        }
        if row["method"] in ("eb-train-lf", "eb-train-ll"):
            own, epoch = gammas(runs, row["trajectory"]), row["epoch_drawn"]
            at = min(epoch, len(base) - 1)
            found["to_fp32_same_epoch"] = distance(own[epoch], base[at], layers)
            found["to_fp32_drawn"] = distance(own[epoch], base[full["epoch_drawn"]], layers)
        yield found


def floors(runs: Path, searches: dict[int, tuple[str, int]], layers: dict[str, int]) -> dict[str, Any]:
    """Distances between masks drawn by fp32 searches of different seeds."""
    drawn = {seed: gammas(runs, name)[epoch] for seed, (name, epoch) in searches.items()}
    pairs = itertools.combinations(sorted(drawn), 2)
    return {f"{a}, {b}": distance(drawn[a], drawn[b], layers) for a, b in pairs}


def other_order(depth: int, epochs: int, seed: int, train: dict[str, Any]) -> list[float]:
    """Mask distance after every epoch between two fp32 trainings that differ in the order of the data alone."""
    dataset: Any = data.load("digits")
    made = []
    for order in (1, 2):
        model = models.build("preresnet", depth=depth, classes=10, input_shape=(3, 8, 8), seed=seed)
        optimizer = make_optimizer(
            model, lr=train["lr"], momentum=train["momentum"], weight_decay=train["weight_decay"]
        )
        step = TrainStep(model, model, optimizer, l1=train["l1"])
        scales = []
        for epoch in range(1, epochs + 1):
            train_epoch(step, dataset.train_batches(train["batch_size"], seed=1000 * seed + order, epoch=epoch))
            scales.append(tickets.gammas(model))
        made.append(scales)
    layers = tickets.bn_layers(model)
    return [distance(a, b, layers) for a, b in zip(*made, strict=True)]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line for each precision, means over the seeds."""
    head = (
        "| precision | n | LF | LL | drawn | mask to fp32's, same epoch | J, 7 nm array: LF / LL | J, B200: LF / LL |"
    )
    lines = [head, "|---" * 8 + "|"]

    def mean(values: list[float], digits: int = 2) -> str:
        spread = f" ({min(values):.{digits}f}..{max(values):.{digits}f})" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{spread}"

    def of(low: str, method: str) -> list[dict[str, Any]]:
        return sorted((r for r in rows if r["low"] == low and r["method"] == method), key=lambda r: r["seed"])

    def joules(chosen: list[list[dict[str, Any]]], profile: str) -> str:
        return " / ".join(f"{statistics.mean(r['joules'][profile] for r in one):.3g}" for one in chosen)

    lows = list(dict.fromkeys(r["low"] for r in rows))
    dense, full = (
        list({r["seed"]: r for low in lows for r in of(low, method)}.values()) for method in ("dense", "eb-train")
    )
    for name, one in (("fp32, dense", dense), ("fp32 (FF)", full)):
        lines.append(
            f"| {name} | {len(one)} | {mean([100 * r['accuracy'] for r in one])} | – "
            f"| {'/'.join(str(r['drawn']) for r in one) if one[0]['drawn'] else '–'} | – "
            f"| {joules([one], PROFILES[0])} | {joules([one], PROFILES[1])} |"
        )
    for low in lows:
        lf, ll = of(low, "eb-train-lf"), of(low, "eb-train-ll")
        accuracies = " | ".join(mean([100 * r["accuracy"] for r in one]) for one in (lf, ll))
        lines.append(
            f"| {low} | {len(lf)} | {accuracies} "
            f"| {'/'.join(str(r['drawn']) for r in ll)} | {mean([r['to_fp32_same_epoch'] for r in ll], 3)} "
            f"| {joules([lf, ll], PROFILES[0])} | {joules([lf, ll], PROFILES[1])} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", type=Path)
    parser.add_argument(
        "--floor-epochs", type=int, default=10, help="of the two trainings in another order of the data"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/results/four-bit-digits.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    searches: dict[int, tuple[str, int]] = {}
    first: dict[str, Any] = {}
    layers: dict[str, int] = {}
    provenance: dict[str, Any] = {}
    for run in sorted(options.runs.glob("four-bit-*")):
        if not (run / "results.json").exists():
            continue
        result = json.loads((run / "results.json").read_text())
        layers, first = layers_of(run), first or result
        provenance = provenance or json.loads((run / "provenance.json").read_text())
        lf = next(row for row in result["rows"] if row["method"] == "eb-train-lf")
        full = next(row for row in result["rows"] if row["method"] == "eb-train")
        searches[result["seed"]] = (full["trajectory"], full["epoch_drawn"])
        rows += rows_of(run, options.runs, lf["search_precision"], result["seed"])
    rows.sort(key=lambda row: (ORDER.index(row["low"]) if row["low"] in ORDER else len(ORDER), row["seed"]))
    train = first["train"]
    made = {
        "provenance": {
            k: provenance[k] for k in ("commit", "versions", "python", "device", "threads") if k in provenance
        },
        "network": first["network"],
        "dataset": first["dataset"],
        "train": train,
        "prune": first["prune"],
        "profiles": list(PROFILES),
        "rows": rows,
        "floor": {
            "another seed, masks as drawn by fp32": floors(options.runs, searches, layers),
            "another order of the data, fp32, after every epoch": other_order(
                first["network"]["depth"], options.floor_epochs, 1, train
            ),
        },
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(made, indent=1) + "\n")
    print(table(rows))
    print(json.dumps(made["floor"], indent=1))


if __name__ == "__main__":
    main()
