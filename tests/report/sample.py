"""A synthetic run folder: realistic in shape and size, invented, and named so.

PreResNet-like bottleneck network (9n + 2 layers) on 8x8 images, 40 epochs, a dense baseline and tickets at three
ratios. No torch, no training: curves and masks come from a small seeded formula; the energies are the model's. `python
tests/report/sample.py FOLDER` writes one to look at.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import sys
from pathlib import Path
from typing import Any

import hw_models
from ebsim.pricing import profile

NAME = "synthetic-preresnet101-digits-0123abcd"
EPOCHS, IMAGES, TEST_IMAGES = 40, 1347, 450
RATIOS = (0.3, 0.5, 0.7)
DENSE = "dense-0a1b2c3d4e5f"


def layers(keep: float = 1.0, blocks: int = 11, size: int = 8) -> list[dict[str, Any]]:
    """Layer dicts of a pre-activation bottleneck network whose inner channels are cut to `keep`."""
    out: list[dict[str, Any]] = []
    source = "input"

    def add(name: str, kind: str, **fields: Any) -> None:
        nonlocal source
        out.append({"name": name, "kind": kind, "sources": [source], **fields})
        source = name

    def conv(name: str, c: int, k: int, side: int, kernel: int = 1, stride: int = 1, first: bool = False) -> None:
        to = side // stride
        add(
            name,
            "conv",
            macs=k * c * kernel * kernel * to * to,
            inputs=c * side * side,
            outputs=k * to * to,
            weights=k * c * kernel * kernel,
            channels=[c, k],
            size=[side, side],
            out=[to, to],
            kernel=[kernel, kernel],
            stride=[stride, stride],
            first=first,
        )

    def norm(name: str, c: int, side: int) -> None:
        for suffix, kind, weights in (("bn", "bn", 2 * c), ("relu", "relu", 0)):
            add(
                f"{name}_{suffix}",
                kind,
                inputs=c * side * side,
                outputs=c * side * side,
                weights=weights,
                channels=[c, c],
                size=[side, side],
                out=[side, side],
            )

    conv("conv1", 3, 16, size, kernel=3, first=True)
    width, side = 16, size
    for stage, base in enumerate((16, 32, 64), start=1):
        for block in range(blocks):
            inner, seen = max(1, round(base * keep)), max(1, round(width * keep))
            stride = 2 if stage > 1 and block == 0 else 1
            at = f"layer{stage}.{block}"
            norm(f"{at}.pre", seen, side)
            conv(f"{at}.conv1", seen, inner, side)
            norm(f"{at}.mid", inner, side)
            conv(f"{at}.conv2", inner, inner, side, kernel=3, stride=stride)
            side //= stride
            conv(f"{at}.conv3", inner, 4 * base, side)
            width = 4 * base
            add(
                f"{at}.add",
                "add",
                inputs=2 * width * side * side,
                outputs=width * side * side,
                channels=[width, width],
                size=[side, side],
                out=[side, side],
            )
    kept = round(width * keep)
    add("fc", "linear", macs=10 * kept, inputs=kept, outputs=10, weights=10 * kept + 10, channels=[kept, 10], bias=True)
    add("loss", "loss", inputs=10, outputs=1)
    return out


def curve(start: int, end: int, best: float, dice: random.Random) -> list[dict[str, Any]]:
    points = []
    for epoch in range(start + 1, end + 1):
        lr = 0.1 * 0.1 ** sum(epoch > milestone for milestone in (20, 30))
        age = epoch - start / 2
        noise = dice.gauss(0, 0.012 if lr > 0.05 else 0.002)
        accuracy = min(0.999, max(0.1, best - 0.75 * math.exp(-age / 2.5) + (noise - 0.015 if lr > 0.05 else noise)))
        loss = 1.9 * math.exp(-age / 4) + (0.06 if lr > 0.05 else 0.012) * (1 + abs(dice.gauss(0, 0.2)))
        points.append(
            {
                "epoch": epoch,
                "lr": lr,
                "loss": loss,
                "accuracy": min(1.0, accuracy + 0.01),
                "test_loss": 1.3 * loss + 0.03,
                "test_accuracy": round(accuracy * TEST_IMAGES) / TEST_IMAGES,
                "images": IMAGES,
                "seconds": 4.0,
            }
        )
    return points


def distance_map(ratio: float, dice: random.Random) -> list[list[float]]:
    """Drift that slows down: the distance of two epochs grows with what was moved between them, and saturates."""
    pace = [0.0]
    for epoch in range(1, EPOCHS + 1):
        step = 0.5 * math.exp(-epoch / (2 + 3 * ratio)) + (0.05 if epoch <= 20 else 0.006)
        pace.append(pace[-1] + step * dice.uniform(0.85, 1.15))
    top = 2 * ratio * (1 - ratio)
    return [[round(top * (1 - math.exp(-abs(a - b) / top)), 6) for b in pace] for a in pace]


def emergence(distances: list[float]) -> int:
    """First epoch after which the last five distances are all under 0.1."""
    return next(e for e in range(5, EPOCHS + 1) if all(d < 0.1 for d in distances[e - 5 : e]))


def row(
    method: str,
    label: str,
    ratio: float | None,
    drawn: int | None,
    networks: dict[str, Any],
    curves: dict[str, Any],
    dense_joules: float | None,
) -> dict[str, Any]:
    key = "dense" if ratio is None else f"ticket-{ratio:g}"
    macs = sum(layer.get("macs", 0) for layer in networks[key])
    dense_macs = sum(layer.get("macs", 0) for layer in networks["dense"])
    first = networks["dense"][0]["macs"]
    spent = {"dense": EPOCHS} if drawn is None else {"search": drawn, "retrain": EPOCHS - drawn}
    ledger, stages = [], []
    total_macs = 0
    for stage, epochs in spent.items():
        network = key if stage == "retrain" else "dense"
        per_image = 3 * (macs if stage == "retrain" else dense_macs) - first
        total_macs += per_image * IMAGES * epochs
        stages.append({"stage": stage, "joules": per_image * IMAGES * epochs * 1.4e-11})
        ledger.append(
            {
                "stage": stage,
                "network": network,
                "precision": "fp32",
                "epochs": epochs,
                "batch_size": 128,
                "images_per_epoch": IMAGES,
                "steps_per_epoch": 11,
                "eval_images": TEST_IMAGES * epochs,
                "mask_draws": epochs if stage == "search" else 0,
                "channels": 7408,
                "l1": True,
                "masked": False,
            }
        )
    joules = sum(stage["joules"] for stage in stages)
    shares = {"mac": 0.33, "register": 0.05, "interconnect": 0.02, "buffer": 0.2, "vector": 0.04}
    components = {name: share * joules for name, share in shares.items()}
    components["dram"] = joules - sum(components.values())
    points = curves[DENSE if ratio is None else f"retrain-{ratio:g}"]
    return {
        "method": method,
        "label": label,
        "ratio": ratio,
        "precision": "FF",
        "search_precision": "fp32",
        "retrain_precision": "fp32",
        "epoch_drawn": drawn,
        "emerged": drawn is not None or None,
        "accuracy": points[-1]["test_accuracy"],
        "best_accuracy": max(p["test_accuracy"] for p in points),
        "accuracy_top5": None,
        "parameters": sum(layer.get("weights", 0) for layer in networks[key]),
        "macs": macs,
        "channels_kept": 7408 if ratio is None else 7408 - round(7408 * ratio),
        "kept_floor": ["layer3.10.bn2"] if ratio == 0.7 else [],
        "notes": [],
        "train_macs": total_macs,
        "train_flops": 2 * total_macs,
        "train_pflops_paper": 3
        * IMAGES
        * 1e-15
        * 1e9
        * sum(
            epochs * round(2e-9 * (macs if stage == "retrain" else dense_macs), 2) for stage, epochs in spent.items()
        ),
        "energy": {
            "joules": joules,
            "low": joules / 2.1,
            "high": 2.1 * joules,
            "seconds": total_macs / 4e11,
            "stages": stages,
            "components": components,
        },
        "saving_vs_dense": None if dense_joules is None else 1 - joules / dense_joules,
        "ledger": ledger,
        "curve": DENSE if ratio is None else f"retrain-{ratio:g}",
        "trajectory": DENSE,
    }


def price(rows: list[dict[str, Any]], networks: dict[str, Any]) -> None:
    """The energies of the rows by the real model, the first row the baseline."""
    energies = hw_models.price_all([row["ledger"] for row in rows], networks, "horowitz-45nm", baseline=0)
    for row, energy in zip(rows, energies, strict=True):
        row |= {"energy": energy, "saving_vs_dense": energy["saving"]["value"], "train_macs": energy["macs"]}
        row["train_flops"] = 2 * energy["macs"]


def content(seed: int = 0, blocks: int = 11) -> dict[str, Any]:
    """Everything but the manifest: file name -> JSON value (or text)."""
    dice = random.Random(seed)
    maps = {p: distance_map(p, dice) for p in RATIOS}
    distances = {p: [maps[p][e][e - 1] for e in range(1, EPOCHS + 1)] for p in RATIOS}
    drawn = {p: emergence(distances[p]) for p in RATIOS}
    networks = {"dense": layers(blocks=blocks)}
    networks |= {f"ticket-{p:g}": layers(1 - p, blocks=blocks) for p in RATIOS}
    curves = {DENSE: curve(0, EPOCHS, 0.978, dice)}
    curves |= {f"retrain-{p:g}": curve(drawn[p], EPOCHS, 0.985 - 0.02 * p, dice) for p in RATIOS}
    dense = row("dense", "Dense", None, None, networks, curves, None)
    dense["saving_vs_dense"] = 0.0
    rows = [dense] + [
        row("eb-train", "EB Train", p, drawn[p], networks, curves, dense["energy"]["joules"]) for p in RATIOS
    ]
    price(rows, networks)
    return {
        "experiment.toml": '# synthetic\nname = "synthetic-preresnet101-digits"\nseed = 0\n\n[data]\nname = "digits"\n',
        "results.json": {
            "schema": 1,
            "name": NAME,
            "seed": 0,
            "dataset": {
                "name": "digits",
                "label": "digits (synthetic sample)",
                "classes": 10,
                "shape": [3, 8, 8],
                "train_images": IMAGES,
                "test_images": TEST_IMAGES,
                "digest": "ab" * 32,
            },
            "network": {
                "name": "preresnet",
                "depth": 9 * blocks + 2,
                "label": f"PreResNet{9 * blocks + 2}",
                "parameters": dense["parameters"],
                "macs": dense["macs"],
                "channels": 7408,
            },
            "train": {"epochs": EPOCHS, "batch_size": 128, "lr": 0.1, "milestones": [20, 30]},
            "prune": {"rule": "paper", "threshold": 0.1, "window": 5, "ratios": list(RATIOS), "min_channels": 1},
            "hardware": "horowitz-45nm",
            "rows": rows,
            "seconds": 301.5,
            "epochs_trained": 126,
            "epochs_reused": 0,
        },
        "networks.json": networks,
        "curves.json": curves,
        "masks.json": {
            DENSE: {
                "channels": 7408,
                "layers": {"layer1.0.bn1": 16},
                "ratios": {f"{p:g}": {"distances": distances[p], "emerged": drawn[p], "map": maps[p]} for p in RATIOS},
            }
        },
        "provenance.json": {
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "dirty": False,
            "versions": {"ebsim": "0.1.0", "torch": "2.13.0+cpu"},
            "python": "3.11.7",
            "torch_build": "cpu",
            "threads": 2,
            "cpu_capability": "AVX2",
            "device": "cpu",
            "argv": ["cli.py", "run", "experiments/preresnet101.toml"],
            "host_os": "Linux",
            "started": "2026-11-22T08:00:00Z",
            "finished": "2026-11-22T08:05:02Z",
            "dataset_digest": "ab" * 32,
            "hardware_digest": "cd" * 32,
            "folder": f"runs/{NAME}",
        },
        "hardware.toml": profile.read("horowitz-45nm").text,
    }


def write(folder: Path, files: dict[str, Any] | None = None) -> Path:
    """Write a run folder with its manifest and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    digests = {}
    for name, value in (content() if files is None else files).items():
        data = (value if isinstance(value, str) else json.dumps(value, sort_keys=True)).encode()
        (folder / name).write_bytes(data)
        digests[name] = hashlib.sha256(data).hexdigest()
    (folder / "MANIFEST.json").write_text(json.dumps({"files": digests}))
    return folder


if __name__ == "__main__":
    print(write(Path(sys.argv[1]) / NAME))
