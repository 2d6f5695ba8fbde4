"""A fault at every system call of a grid's driver and of its table: the same command ends in the same files."""

from __future__ import annotations

import functools
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from ebsim import grid
from ebsim.errors import StorageError
from tests import attacks
from tests.cli.test_kills import table
from tests.runs import faults


def ablate(folder: Path) -> None:
    """A grid whose two cells are done: what is written is the driver's own."""
    state = grid.open_grid(folder / "tiny.toml", ("seed=1..2",), runs_dir=folder / "runs")
    grid.ablate(state, runs_dir=folder / "runs")
    assert set(state.states.values()) == {"done"}, state.errors


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ebsim import pipeline

    folder = tmp_path_factory.mktemp("cells")
    attacks.run(folder)
    pipeline.run(folder / "tiny.toml", {"seed": 2}, runs_dir=folder / "runs")
    return folder


def check(cells: Path, root: Path, sample: int | None) -> tuple[int, Counter[int]]:
    """Every fault of every call, or a sample; the number of points."""
    shutil.copytree(cells, root / "clean")
    points = faults.trace(root / "clean" / "runs" / "grids", lambda: ablate(root / "clean"))
    trials = [(point, action) for point in points for action in faults.actions(point)]
    expected, ends = table(root / "clean"), Counter[int]()
    for point, action in trials if sample is None else random.Random(2).sample(trials, sample):
        place = root / "trial"
        shutil.copytree(cells, place)
        code = faults.inject(place / "runs/grids", point, action, functools.partial(ablate, place), StorageError)
        assert code in ((-9, 0) if action == "kill" else (0, 74)), (point, action, code)
        ends[code] += 1
        ablate(place)
        assert table(place) == expected and not list(place.rglob(".*.tmp")), (point, action)
        shutil.rmtree(place)
    return len(points), ends


def test_a_fault_here_and_there(cells: Path, tmp_path: Path) -> None:
    points, ends = check(cells, tmp_path, 8)
    assert points > 50 and sum(ends.values()) == 8


@pytest.mark.slow
def test_every_fault_at_every_call(cells: Path, tmp_path: Path) -> None:
    points, ends = check(cells, tmp_path, None)
    print(f"{sum(ends.values())} faults at {points} points of a grid's driver: {dict(ends)}")
