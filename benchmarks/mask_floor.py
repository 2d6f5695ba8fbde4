"""What moves a channel mask besides learning: the floor below which a mask distance says nothing.

    python benchmarks/mask_floor.py --root /path/to/images [--epochs 24] [--device auto] [--out FILE.json]

The Early-Bird rule calls a mask settled when it changes by less than 0.1 from one epoch to the next. This trains one
dense network several times, each time with one thing changed (the arithmetic's rounding, the memory layout, a simulated
precision, the order of the data, the initial weights), and tells after every epoch how far the two masks are apart.
Networks, data and steps are those of experiments/results/*.toml; the first variant repeats the base exactly.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebsim import data, models, precision, tickets
from ebsim.runs import provenance
from ebsim.training import TrainStep, make_optimizer, train_epoch

RATIOS = (0.3, 0.5, 0.7)


@dataclass(frozen=True)
class Variant:
    """One training: what the base is, and where another differs from it."""

    name: str
    amp: str = "none"
    tf32: bool = False
    low: str = "fp32"
    channels_last: bool = True
    threads: int = 1
    data_seed: int = 1
    init_seed: int = 1


def variants(device: str) -> list[Variant]:
    """The base, the same again, and one change at a time."""
    base = Variant("base: fp32, channels_last")
    found = [
        base,
        replace(base, name="the same again"),
        replace(base, name="layout: NCHW", channels_last=False),
        replace(base, name="rounding: bf16 autocast", amp="bf16"),
        replace(base, name="simulated fp8", low="fp8"),
        replace(base, name="simulated bfp8", low="bfp8"),
        replace(base, name="other data order", data_seed=2),
        replace(base, name="other initial weights", init_seed=2),
    ]
    if device == "cpu":
        return [*found, replace(base, name="rounding: two threads", threads=2)]
    return [*found, replace(base, name="rounding: TF32", tf32=True)]


def train(variant: Variant, dataset: Any, device: torch.device, epochs: int, seed: int) -> tuple[Tensor, float]:
    """Scales after every epoch, [epochs, channels], and the accuracy on the training images of the last one."""
    torch.set_num_threads(variant.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = variant.tf32
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format
    model = models.build("preresnet", depth=20, classes=dataset.classes, seed=1000 * seed + variant.init_seed)
    model = model.to(device, memory_format=layout)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, lr=0.1, momentum=0.9, weight_decay=1e-4)
    placement = precision.apply(model, variant.low, seed=seed)
    placement.attach(optimizer)
    step = TrainStep(model, model, optimizer, l1=1e-4, amp=variant.amp)
    rows, count, accuracy = [], 0, 0.0

    def before() -> None:
        nonlocal count
        placement.set_step(count)
        count += 1

    for epoch in range(1, epochs + 1):
        passed = sum(epoch > milestone for milestone in (epochs // 2, 3 * epochs // 4))
        optimizer.param_groups[0]["lr"] = 0.1 * 0.1**passed
        order = 1000 * seed + variant.data_seed
        batches = dataset.train_batches(128, seed=order, epoch=epoch, memory_format=layout)
        accuracy = train_epoch(step, batches, before_step=before).accuracy
        rows.append(tickets.gammas(model))
    return torch.stack(rows), accuracy


def distances(ours: Tensor, base: Tensor, layers: dict[str, int]) -> dict[str, list[float]]:
    """Mask distance to the base after every epoch, by ratio."""
    found = {}
    for ratio in RATIOS:
        pairs = zip(ours, base, strict=True)
        found[f"{ratio:g}"] = [
            tickets.masks_from_gammas(a, layers, ratio).distance(tickets.masks_from_gammas(b, layers, ratio))
            for a, b in pairs
        ]
    return found


def steps_between_epochs(gammas: Tensor, layers: dict[str, int]) -> dict[str, list[float]]:
    """Mask distance of each epoch to the one before, by ratio: what the rule compares with its threshold."""
    return distances(gammas[1:], gammas[:-1], layers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--root", required=True, help="an image folder with train/ and test/")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", default="benchmarks/results/mask_floor.json")
    options = parser.parse_args()
    name = options.device
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    dataset: Any = data.load("imagefolder", root=options.root, device=device, subset=options.images)
    layers = tickets.bn_layers(models.build("preresnet", depth=20, classes=dataset.classes, seed=0))
    results: dict[str, Any] = {
        "provenance": provenance.collect(str(device)),
        "network": "PreResNet20",
        "dataset": dataset.describe(),
        "epochs": options.epochs,
        "ratios": list(RATIOS),
        "trainings": [],
    }
    for seed in range(1, options.seeds + 1):
        base: Tensor | None = None
        for variant in variants(device.type):
            began = time.monotonic()
            gammas, accuracy = train(variant, dataset, device, options.epochs, seed)
            base = gammas if base is None else base
            row = {
                "seed": seed,
                **asdict(variant),
                "train_accuracy": accuracy,
                "seconds": round(time.monotonic() - began, 1),
                "to_base": distances(gammas, base, layers),
                "epoch_to_epoch": steps_between_epochs(gammas, layers),
            }
            results["trainings"].append(row)
            last = ", ".join(f"p={ratio} {values[-1]:.3f}" for ratio, values in row["to_base"].items())
            print(f"seed {seed}  {variant.name:28} {last}", flush=True)
            Path(options.out).parent.mkdir(parents=True, exist_ok=True)
            Path(options.out).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
