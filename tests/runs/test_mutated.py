"""Files of finished runs and of training stages, damaged at random: noticed, or without consequence; never silent.

After every damage the same command, or a reading one: it ends with a named error that overwrites nothing, or in the
very results of the undamaged run.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ebsim.errors import DamagedError, EbsimError
from ebsim.files import file_digest, read_json
from ebsim.report import load_run
from ebsim.runs import inventory
from ebsim.runs.run_folder import RunFolder
from ebsim.runs.store import Store
from ebsim.training import Trajectory
from tests import attacks
from tests.training.test_trajectory import CPU, TRAIN, equal
from tests.training.toy import ToyData, toy_network


def mutate(path: Path, others: list[Path], rng: random.Random) -> str:
    """Damage a file in one of eleven ways; which."""
    data = bytearray(path.read_bytes())
    kind = rng.choice(
        ("bit", "bit", "digit", "cut", "cut", "longer", "empty", "gone", "other", "zeros", "folder", "link")
    )
    if not data and kind in ("bit", "digit", "cut", "zeros"):
        kind = "longer"
    if kind == "digit":
        digits = [at for at, byte in enumerate(data) if 48 <= byte < 58]
        kind = "digit" if digits else "bit"
        if digits:
            at = rng.choice(digits)
            data[at] = 48 + (data[at] - 48 + rng.randrange(1, 10)) % 10
    if kind == "bit":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[rng.randrange(len(data)) :]
    elif kind == "longer":
        data += bytes(rng.randrange(256) for _ in range(rng.choice((1, 7, 4000))))
    elif kind == "empty":
        data.clear()
    elif kind == "other":
        data[:] = rng.choice(others).read_bytes()
    elif kind == "zeros":
        at = rng.randrange(len(data))
        data[at : at + 512] = bytes(len(data[at : at + 512]))
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("nowhere")
    elif kind != "gone":
        path.write_bytes(data)
    if kind != "gone" and path.name.startswith(
        ".claim"
    ):  # long ago: a claim that cannot be read counts for two minutes
        os.utime(path, (0, 0), follow_symlinks=False)
    return kind


class Tree:
    """A folder that can be put back as it was."""

    def __init__(self, root: Path, kept: Path) -> None:
        self.root, self.kept = root, kept
        shutil.copytree(root, kept)
        self.digests = self.now()

    def now(self) -> dict[str, str]:
        return {
            str(path.relative_to(self.root)): "link"
            if path.is_symlink()
            else ""
            if path.is_dir()
            else file_digest(path)
            for path in self.root.rglob("*")
        }

    def restore(self) -> None:
        shutil.rmtree(self.root)
        shutil.copytree(self.kept, self.root)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ebsim import pipeline

    folder = tmp_path_factory.mktemp("whole")
    attacks.run(folder)
    pipeline.run(folder / "tiny.toml", {"seed": 2, "name": "other"}, runs_dir=folder / "runs")
    return folder


def read_run(run: Path, results: object) -> None:
    assert load_run(run).results == results


def list_runs(run: Path, results: object) -> None:
    [entry] = [entry for entry in inventory.take(run.parent, check=True).runs if entry.name == run.name] or [None]  # type: ignore[list-item]
    if entry is None:
        raise DamagedError("not listed as a run")  # its experiment.toml is gone
    if entry.state == inventory.DONE:
        assert entry.results == results
    elif entry.state == inventory.DAMAGED:
        raise DamagedError(entry.problem)


def runs_attacked(whole: Path, root: Path, count: int, seed: int) -> Counter[str]:
    """Damage to run folders: what happened, by name."""
    place = root / "place"
    shutil.copytree(whole, place)
    tree, rng, ends = Tree(place / "runs", root / "kept"), random.Random(seed), Counter[str]()
    (run,) = place.glob("runs/tiny-*")
    results = read_json(run / "results.json")
    files = sorted(path for path in run.rglob("*") if path.is_file())
    others = sorted(path for path in place.glob("runs/*-*/**/*") if path.is_file())
    listed = set(read_json(run / "MANIFEST.json")["files"])
    again: Callable[[Path, object], None] = lambda run, results: _again(place, results)  # noqa: E731
    for _ in range(count):
        path = rng.choice(files)
        name = str(path.relative_to(run))
        before = file_digest(path)
        how, ask = mutate(path, others, rng), rng.choice((again, again, read_run, list_runs))
        damaged = tree.now()
        changed = damaged.get(str(path.relative_to(tree.root))) != before
        try:
            ask(run, results)
        except EbsimError as error:
            assert error.exit_code in (4, 74), (name, how, error)
            assert {key: now for key, now in tree.now().items() if not key.endswith(".tmp")} == damaged, (name, how)
            ends["refused"] += 1
        else:
            if changed and name in listed and ask in (again, list_runs):
                assert not RunFolder(run).is_done or _verifies(run), (
                    name,
                    how,
                )  # it was made anew, or is listed undone
            ends["same"] += 1
        tree.restore()
    return ends


def _again(place: Path, results: object) -> None:
    done = attacks.run(place).results
    keep = lambda found: {key: value for key, value in found.items() if key not in attacks.VOLATILE}  # noqa: E731
    assert keep(done) == keep(results)


def _verifies(run: Path) -> bool:
    RunFolder(run).verify()
    return True


def training(root: Path, to: int) -> Trajectory:
    stage = Store(root).stage("dense", {"toy": 1})
    run = Trajectory(stage, toy_network, ToyData(), TRAIN, seed=3, device=CPU, keep=lambda gammas: len(gammas) == 3)
    run.extend(to)
    return run


def stages_attacked(root: Path, count: int, seed: int) -> Counter[str]:
    """Damage to a stage of three epochs, then two more: refused with nothing overwritten, or the same bits."""
    clean = training(root / "clean", 5)
    training(root / "stages", 3)
    Store(root / "stages").stage("dense", {"toy": 2})
    tree, rng, ends = Tree(root / "stages", root / "kept"), random.Random(seed), Counter[str]()
    files = sorted(path for path in (root / "stages").rglob("*") if path.is_file())
    for _ in range(count):
        path = rng.choice(files)
        how = mutate(path, files, rng)
        before = tree.now()
        try:
            found = training(root / "stages", 5)
            states = [found.state_at(epoch) for epoch in (2, 5)]
        except EbsimError as error:
            assert error.exit_code in (4, 74), (path.name, how, error)
            name = str(path.relative_to(tree.root))
            assert tree.now().get(name) == before.get(name), (path.name, how)  # what was damaged is not written over
            ends["refused"] += 1
        else:
            assert equal(states[0], clean.state_at(2)) and equal(states[1], clean.state_at(5)), (path.name, how)
            assert torch.equal(found.gammas, clean.gammas), (path.name, how)
            ends["same"] += 1
        tree.restore()
    return ends


def test_some_of_a_run(whole: Path, tmp_path: Path) -> None:
    ends = runs_attacked(whole, tmp_path, 25, 0)
    assert ends["refused"] > 5


def test_some_of_a_stage(tmp_path: Path) -> None:
    ends = stages_attacked(tmp_path, 25, 0)
    assert ends["refused"] and ends["same"]


@pytest.mark.slow
def test_two_thousand(whole: Path, tmp_path: Path) -> None:
    for name in ("runs", "stages"):
        (tmp_path / name).mkdir()
    runs = runs_attacked(whole, tmp_path / "runs", 1200, 1)
    stages = stages_attacked(tmp_path / "stages", 800, 2)
    print(f"1,200 damaged files of runs: {dict(runs)}; 800 of stages: {dict(stages)}; 0 silent, 0 tracebacks")
