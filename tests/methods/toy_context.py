"""A context at toy size: PreResNet11 on 45 noisy patterns, a few epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ebsim.config import Experiment
from ebsim.experiment.context import ExperimentContext
from ebsim.runs.store import Store
from tests.training.toy import ToyData

SETTINGS: dict[str, Any] = {
    "name": "toy",
    "model": {"name": "preresnet", "depth": 11},
    "train": {"epochs": 4, "batch_size": 20, "milestones": [3], "l1": 1e-3, "eval_every": 2},
    "prune": {"ratio": [0.3, 0.5, 0.7], "threshold": 1.0, "window": 2, "draw_epochs": [1, 4]},
}


class Data(ToyData):
    """The toy patterns at 8x8, the smallest picture that every network of ours takes."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.x = torch.nn.functional.pad(self.x, (1, 1, 1, 1))


def context(root: Path, **sections: dict[str, Any]) -> ExperimentContext:
    """`sections` are laid over `SETTINGS`: context(tmp_path, prune={"ratio": [0.5]})."""
    settings = {
        key: value | sections.get(key, {}) if isinstance(value, dict) else value for key, value in SETTINGS.items()
    }
    settings |= {key: value for key, value in sections.items() if key not in SETTINGS}
    return ExperimentContext(Experiment.model_validate(settings), Data(), Store(root / "stages"), torch.device("cpu"))


def epochs_trained(root: Path) -> dict[str, int]:
    """Epochs really trained, by stage, as the store's events say; replays of an epoch that was not kept left out."""
    out: dict[str, int] = {}
    for stage in (root / "stages").iterdir():
        lines = (stage / "events.jsonl").read_text().splitlines() if (stage / "events.jsonl").exists() else []
        out[stage.name] = sum('"event":"epoch"' in line and "replayed" not in line for line in lines)
    return out
