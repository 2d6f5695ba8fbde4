"""A fault at every system call of a training: nothing is lost, and the same training ends in the same bits."""

from __future__ import annotations

import functools
import random
import shutil
from pathlib import Path

import pytest
import torch

from ebsim.errors import StorageError
from ebsim.runs.store import Store
from ebsim.training import Trajectory
from tests.runs import faults
from tests.training.test_trajectory import CPU, TRAIN, equal
from tests.training.toy import ToyData, toy_network

EPOCHS = 3


def training(root: Path) -> Trajectory:
    """Three epochs, the second of which is kept; then the state of the first, which has to be trained again."""
    stage = Store(root).stage("dense", {"toy": 1})
    options = {"seed": 3, "device": CPU, "keep": lambda gammas: len(gammas) == 3}
    run = Trajectory(stage, toy_network, ToyData(), TRAIN, **options)  # type: ignore[arg-type]
    run.extend(EPOCHS)
    run.state_at(1)
    return run


def trials(points: list[faults.Point]) -> list[tuple[faults.Point, str]]:
    return [(point, action) for point in points for action in faults.actions(point)]


def check(tmp_path: Path, chosen: list[tuple[faults.Point, str]], clean: Trajectory) -> dict[int, int]:
    ends: dict[int, int] = {}
    for point, action in chosen:
        root = tmp_path / "trial"
        code = faults.inject(root, point, action, functools.partial(training, root), StorageError)
        # 0: a call that may fail, or whose moment "after" does not come because it fails by itself
        assert code in ((-9, 0) if action == "kill" else (0, 74)), (point, action, code)
        ends[code] = ends.get(code, 0) + 1
        again = training(root)
        for epoch in (1, 2, EPOCHS):
            assert equal(again.state_at(epoch), clean.state_at(epoch)), (point, action)
        assert torch.equal(again.gammas, clean.gammas)
        assert not list(root.rglob(".*.tmp")), (point, action)
        shutil.rmtree(root)
    return ends


def test_one_fault_of_every_kind(tmp_path: Path) -> None:
    clean = training(tmp_path / "clean")
    points = faults.trace(tmp_path / "traced", lambda: training(tmp_path / "traced"))
    kinds = {point.kind: point for point in points}
    assert len(kinds) > 40
    chosen = random.Random(0).sample(trials(list(kinds.values())), 40)
    ends = check(tmp_path, chosen, clean)
    assert ends[-9] > 5 and ends[74] > 5


@pytest.mark.slow
def test_every_fault_at_every_call(tmp_path: Path) -> None:
    clean = training(tmp_path / "clean")
    points = faults.trace(tmp_path / "traced", lambda: training(tmp_path / "traced"))
    ends = check(tmp_path, trials(points), clean)
    print(f"{sum(ends.values())} faults at {len(points)} points: {ends}")
    assert sum(ends.values()) > 300
