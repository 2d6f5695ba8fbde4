"""Checkpoints within an epoch: killed or stopped between any two steps, the same bits as without, and nothing twice."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ebsim import stop, tickets
from ebsim.training import Averaging, SoftFilters, trainer
from tests.training.test_trajectory import TRAIN, equal, trajectory
from tests.training.toy import Recorder, ToyData, toy_network

EVERY_STEP = TRAIN.model_copy(update={"batch_size": 5, "checkpoint_minutes": 1e-9})
NEVER = EVERY_STEP.model_copy(update={"checkpoint_minutes": 0})
STEPS = 9  # an epoch of 45 images in batches of 5


def settings(name: str) -> dict[str, Any]:
    if name == "average":
        return {"averaging": Averaging(2)}
    if name == "precision":
        return {"backend": "int8", "stats_every": 2}
    if name == "constraint":
        return {"constraint": SoftFilters(tickets.filters(toy_network()), 0.4, 4)}
    return {}


def untimed(curve: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in curve]


class Dies(ToyData):
    """Data that end the process, or ask for a stop, before a batch is handed out."""

    def __init__(self, moment: tuple[int, int], act: Callable[[], None]) -> None:
        super().__init__()
        self.moment, self.act = moment, act

    def train_batches(self, batch_size: int, *, epoch: int, skip: int = 0, **options: Any) -> Any:
        for number, batch in enumerate(super().train_batches(batch_size, epoch=epoch, skip=skip, **options), skip):
            if (epoch, number) == self.moment:
                self.act()
            yield batch


@pytest.mark.parametrize("kind", ["plain", "average", "precision", "constraint"])
@pytest.mark.parametrize("moment", [(1, 1), (2, 4), (4, 8)])
def test_killed_between_two_steps(tmp_path: Path, kind: str, moment: tuple[int, int]) -> None:
    clean = trajectory(tmp_path / "clean", train=NEVER, **settings(kind))
    clean.extend(4)
    child = os.fork()
    if child == 0:
        data = Dies(moment, lambda: os.kill(os.getpid(), signal.SIGKILL))
        trajectory(tmp_path / "run", train=EVERY_STEP, data=data, **settings(kind)).extend(4)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    progress, data = Recorder(), ToyData()
    run = trajectory(tmp_path / "run", train=EVERY_STEP, data=data, progress=progress, **settings(kind))
    run.extend(4)
    epoch, step = moment
    assert f"going on after step {step} of epoch {epoch}" in progress.notes[-1]
    assert len(data.served) == (4 - epoch) * STEPS + STEPS - step
    assert equal(run.state_at(4), clean.state_at(4)) and torch.equal(run.gammas, clean.gammas)
    assert untimed(run.curve) == untimed(clean.curve)
    assert not (run.stage.folder / "within.safetensors").exists()


def test_a_stop_keeps_what_is_worth_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = TRAIN.model_copy(update={"batch_size": 5})
    clean = trajectory(tmp_path / "clean", train=train)
    clean.extend(3)
    for worth, kept in ((0.0, True), (1000.0, False)):
        monkeypatch.setattr(trainer, "WORTH_KEEPING", worth)
        root = tmp_path / str(worth)
        data = Dies((2, 5), lambda: stop._asked.append(signal.SIGTERM))
        try:
            with pytest.raises(stop.Stop):
                trajectory(root, train=train, data=data).extend(3)
        finally:
            stop._asked.clear()
        run = trajectory(root, train=train)
        assert (run.stage.folder / "within.safetensors").exists() == kept
        run.extend(3)
        assert equal(run.state_at(3), clean.state_at(3))


def test_a_damaged_or_outdated_one_is_passed_over(tmp_path: Path) -> None:
    clean = trajectory(tmp_path / "clean", train=NEVER)
    clean.extend(3)
    child = os.fork()
    if child == 0:
        trajectory(tmp_path / "run", train=EVERY_STEP, data=Dies((2, 3), lambda: os._exit(9))).extend(4)
    os.waitpid(child, 0)
    within = trajectory(tmp_path / "run").stage.folder / "within.safetensors"
    whole = within.read_bytes()
    within.write_bytes(whole[:-7])
    progress = Recorder()
    run = trajectory(tmp_path / "run", train=NEVER, progress=progress)
    run.extend(3)
    assert "passed over a damaged checkpoint" in progress.notes[-1]
    assert equal(run.state_at(3), clean.state_at(3))
    within.write_bytes(whole)
    progress = Recorder()
    trajectory(tmp_path / "run", train=NEVER, progress=progress).extend(4)
    assert progress.notes == []


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    clean = trajectory(tmp_path / "clean", train=NEVER)
    clean.extend(6)
    rng, kills, within = random.Random(2), 0, 0
    for trial in range(40):
        root = tmp_path / str(trial)
        while True:
            child = os.fork()
            if child == 0:
                trajectory(root, train=EVERY_STEP).extend(6)
                os._exit(0)
            time.sleep(rng.uniform(0.01, 0.2))
            os.kill(child, signal.SIGKILL)
            if os.waitpid(child, 0)[1] == 0:
                break
            kills += 1
            within += (trajectory(root).stage.folder / "within.safetensors").exists()
        run = trajectory(root, train=EVERY_STEP)
        assert equal(run.state_at(6), clean.state_at(6)) and untimed(run.curve) == untimed(clean.curve)
    print(f"{kills} kills, {within} of them within an epoch")
    assert kills > 60 and within > 30
