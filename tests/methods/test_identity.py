"""Names of stages that must never change by accident: a changed one forgets everything that was trained before.

If one of these changes on purpose, say so in the commit, and expect every store of every user to be trained anew.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ebsim import tickets
from ebsim.config import Experiment
from ebsim.experiment import retraining
from ebsim.experiment.context import ExperimentContext
from ebsim.experiment.training_stages import dense_training
from ebsim.methods.thinet import Rescaling
from ebsim.runs.store import Store
from ebsim.training import Trajectory
from tests.methods.toy_context import Data

FROZEN = {
    "dense": "dense-0e278225a3bf",
    "dense, all keys written out": "dense-0e278225a3bf",
    "dense, taylor": "dense-6015c06f3ec9",
    "dense, bfp8": "dense-c03254949082",
    "inherit": "ticket-edfbc38f68c0",
    "fine-tune": "ticket-5b9b7af88b3e",
    "re-init": "ticket-da52d19f7cb5",
    "rewind": "ticket-fe5f3a524eb7",
    "fine-tune, rescaled": "ticket-b3ce752f629f",
    "masked": "masked-f17b1b20713b",
    "soft": "soft-29fe85a92872",
    "soft, pre-trained": "soft-18e50f8942cd",
}


def context(root: Path, **sections: object) -> ExperimentContext:
    base = {"name": "frozen", "model": {"name": "preresnet", "depth": 11}}
    return ExperimentContext(Experiment.model_validate(base | sections), Data(), Store(root), torch.device("cpu"))


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Every kind of stage of the paper's recipe, none of them trained."""
    monkeypatch.setattr(Trajectory, "extend", lambda *args, **options: 0)
    toy = context(tmp_path)
    dense = dense_training(toy)
    flags = torch.arange(sum(toy.layers.values())) % 3 != 0
    channels = tickets.ChannelMask(flags.numpy(), toy.layers)
    weights = tickets.ChannelMask(torch.tensor([True, False, True]).numpy(), {"fc.weight": 3})
    monkeypatch.setattr(retraining.ZeroWeights, "apply", lambda *args: None)
    factors = Rescaling({"fc": torch.tensor([1.0, 0.5])})
    written = {
        "seed": 1,
        "train": {"epochs": 160, "milestones": [80, 120], "lr": 0.1},
        "prune": {"criterion": "gamma", "draw_epochs": [], "gating": "exact"},
        "precision": {"low": "bfp8"},
    }
    return {
        "dense": dense.stage,
        "dense, all keys written out": dense_training(context(tmp_path, **written)).stage,
        "dense, taylor": dense_training(context(tmp_path, prune={"criterion": "taylor"})).stage,
        "dense, bfp8": dense_training(toy, "bfp8").stage,
        **{
            init: retraining.ticket(toy, dense, channels, 10, init, "fp32").stage
            for init in ("inherit", "fine-tune", "re-init", "rewind")
        },
        "fine-tune, rescaled": retraining.ticket(toy, dense, channels, 10, "fine-tune", "fp32", factors).stage,
        "masked": retraining.masked(toy, weights, "fp32").stage,
        "soft": retraining.soft(toy, 0.3, None, "fp32").stage,
        "soft, pre-trained": retraining.soft(toy, 0.3, dense, "fp32").stage,
    }


def test_frozen(stages: dict[str, str]) -> None:
    assert stages == FROZEN


def test_they_differ_where_they_must_and_only_there(stages: dict[str, str]) -> None:
    assert stages.pop("dense, all keys written out") == stages["dense"]
    assert len(set(stages.values())) == len(stages)


def test_where_and_how_something_runs_is_not_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trajectory, "extend", lambda *args, **options: 0)
    plain = dense_training(context(tmp_path)).stage
    elsewhere = context(tmp_path, data={"root": "/elsewhere"}, train={"device": "cpu", "threads": 3, "epochs": 170})
    assert dense_training(elsewhere).stage == plain
    assert (
        dense_training(context(tmp_path, prune={"ratio": [0.1]}, hardware={"profile": "tpu-like-7nm"})).stage == plain
    )
    assert dense_training(context(tmp_path, seed=2)).stage != plain
    assert dense_training(context(tmp_path, train={"lr": 0.05})).stage != plain
