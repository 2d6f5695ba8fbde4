"""A fault at every kind of system call of a whole run: nothing is lost, and the same command ends in the same bits.

`tests/runs/test_faults.py` does it for every single call of a training; here are those around it: of the run folder,
its files, the report, the manifest, the locks.
"""

from __future__ import annotations

import functools
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ebsim.errors import StorageError
from tests import attacks
from tests.runs import faults

Trial = tuple[faults.Point, str]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    attacks.run(folder)
    return folder


def kinds(folder: Path) -> list[Trial]:
    """Every fault at the first and at the last call of each kind (call, file, moment) of a run."""
    points = faults.trace(folder, lambda: attacks.run(folder))
    first = {point.kind: point for point in reversed(points)}
    last = {point.kind: point for point in points}
    chosen = sorted({*first.values(), *last.values()}, key=lambda point: (point.number, point.when))
    return [(point, action) for point in chosen for action in faults.actions(point)]


def check(root: Path, chosen: list[Trial], expected: tuple[str, Any]) -> Counter[int]:
    ends: Counter[int] = Counter()
    for point, action in chosen:
        place = root / "trial"
        place.mkdir()
        code = faults.inject(place, point, action, functools.partial(attacks.run, place), StorageError)
        assert code in ((-9, 0) if action == "kill" else (0, 74)), (point, action, code)
        ends[code] += 1
        attacks.run(place)
        assert attacks.same(attacks.outcome(place), expected), (point, action)
        shutil.rmtree(place)
    return ends


def test_a_fault_here_and_there(clean: Path, tmp_path: Path) -> None:
    trials = kinds(tmp_path / "traced")
    files = {point.file for point, _ in trials}
    for part in (
        "results.json",
        "MANIFEST.json",
        "report.html",
        "experiment.toml",
        ".claim-*",
        "last.safetensors",
    ):
        assert any(part in file for file in files), part
    ends = check(tmp_path, random.Random(1).sample(trials, 8), attacks.outcome(clean))
    assert ends[-9] and ends[74]


@pytest.mark.slow
def test_a_fault_of_every_kind(clean: Path, tmp_path: Path) -> None:
    trials = kinds(tmp_path / "traced")
    ends = check(tmp_path, trials, attacks.outcome(clean))
    print(f"{len(trials)} faults at {len({point.kind for point, _ in trials})} kinds of calls of a run: {dict(ends)}")
