"""Synthetic finished run folders: small, invented in every number, and exactly known."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ebsim.pricing import profile

TOML = 'name = "made-up"\nseed = {seed}\n[train]\nepochs = 40\nmilestones = []\n[precision]\nsearch = "{search}"\n'


def row(method: str, accuracy: float | None, joules: float, **fields: Any) -> dict[str, Any]:
    stage = fields.get("curve", "dense-00")
    return {
        "method": method, "label": method.title(), "ratio": None, "precision": "FF", "search_precision": "fp32",
        "retrain_precision": "fp32", "epoch_drawn": None, "emerged": accuracy is not None, "accuracy": accuracy,
        "best_accuracy": accuracy, "accuracy_top5": None, "parameters": 1000, "macs": 5000, "channels_kept": 10,
        "kept_floor": [], "notes": [], "train_macs": 1e6, "train_flops": 2e6, "train_pflops_paper": None,
        "energy": {"joules": joules, "low": joules / 2, "high": 2 * joules, "seconds": 1.0,
                   "stages": [{"stage": "dense", "joules": joules}], "components": {"mac": joules}},
        "saving_vs_dense": None, "curve": stage, "trajectory": stage,
        "ledger": [{"stage": "dense", "network": "dense", "precision": "fp32", "epochs": 40, "batch_size": 128,
                    "images_per_epoch": 100, "steps_per_epoch": 1}],
    } | fields  # fmt: skip


def write(folder: Path, seed: int, rows: list[dict[str, Any]], search: str = "fp32", threads: int = 1,
          masks: dict[str, Any] | None = None, more: str = "") -> Path:  # fmt: skip
    """A run folder that `report.load_run` accepts; `more` is added to its experiment."""
    results = {
        "schema": 1, "name": "made-up", "seed": seed,
        "dataset": {"name": "digits", "label": "Digits", "classes": 10, "shape": [3, 8, 8], "train_images": 100,
                    "test_images": 50, "digest": "ab" * 32},
        "network": {"name": "preresnet", "depth": 11, "label": "PreResNet11", "parameters": 1000, "macs": 5000,
                    "channels": 10},
        "train": {"epochs": 40, "batch_size": 128, "lr": 0.1, "milestones": [20, 30]},
        "prune": {"rule": "paper", "threshold": 0.1, "window": 5, "ratios": [0.5]},
        "hardware": "horowitz-45nm", "rows": rows, "seconds": 1.0 + seed, "epochs_trained": seed, "epochs_reused": 0,
    }  # fmt: skip
    files = {
        "experiment.toml": TOML.format(seed=seed, search=search) + more,
        "results.json": results,
        "networks.json": {"dense": []},
        "curves.json": {one["curve"]: [{"epoch": 1}] for one in rows},
        "masks.json": masks or {},
        "hardware.toml": profile.read("horowitz-45nm").text,
        "provenance.json": {"threads": threads, "torch_build": "2.13", "device": "cpu", "cpu_capability": "AVX2"},
    }
    folder.mkdir(parents=True)
    digests = {}
    for name, value in files.items():
        data = (value if isinstance(value, str) else json.dumps(value)).encode()
        (folder / name).write_bytes(data)
        digests[name] = hashlib.sha256(data).hexdigest()
    (folder / "MANIFEST.json").write_text(json.dumps({"files": digests}))
    return folder
