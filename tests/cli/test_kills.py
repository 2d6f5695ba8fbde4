"""kill -9 at any moment of a run or a grid, the same command again: the same bits as if nothing had happened."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import pytest

from ebsim import grid
from ebsim.files import file_digest
from ebsim.grid import pool, worker
from tests import attacks
from tests.grid.test_drive import trained


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    attacks.run(folder)
    return folder


def storm(folder: Path, clean: Path, kills: int, seed: int) -> tuple[int, int]:
    """So many kills of runs, each run killed again and again until it gets through; runs and kills."""
    began = time.process_time()
    attacks.run(folder / "timed")
    whole = time.process_time() - began
    rng, runs, done, expected = random.Random(seed), 0, 0, attacks.outcome(clean)
    while done < kills:
        place = folder / str(runs)
        place.mkdir()
        # Early moments more often: what is killed late has little left to be killed in. After some it may end.
        own = done
        while done < own + 12 and attacks.killed_after(
            attacks.forked(lambda place=place: attacks.run(place)), whole * rng.random() ** 2
        ):  # type: ignore[misc]
            done += 1
        attacks.run(place)
        assert attacks.same(attacks.outcome(place), expected), place
        assert attacks.run(place).reused
        runs += 1
    return runs, done


def test_a_few_kills(clean: Path, tmp_path: Path) -> None:
    runs, kills = storm(tmp_path, clean, 4, seed=0)
    assert runs and kills >= 4


@pytest.mark.slow
def test_two_hundred_kills_of_runs(clean: Path, tmp_path: Path) -> None:
    runs, kills = storm(tmp_path, clean, 200, seed=1)
    print(f"{kills} kills in {runs} runs: 0 lost, 0 differ")


AXES = ("prune.ratio=0.3,0.5", "seed=1..2")


class ForkedPool(pool.Pool):
    """Workers that are forked and not started, which is the same for whoever kills their driver, and quick."""

    def _new(self) -> pool.Worker:
        number = next(n for n in range(1, self._size + 1) if n not in self._workers)
        self._logs.mkdir(parents=True, exist_ok=True)
        jobs, answers = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(jobs[0], 0)
            os.dup2(answers[1], 1)
            os.closerange(3, 256)
            worker.sys.stdin = os.fdopen(0, encoding="utf-8")  # type: ignore[attr-defined]
            worker.main(str(self._runs_dir))
            os._exit(0)
        os.close(jobs[0])
        os.close(answers[1])
        made = self._workers[number] = pool.Worker(
            number,
            _Child(child, jobs[1], answers[0]),
            self._logs / f"worker-{number}.log",  # type: ignore[arg-type]
        )
        made.log.touch()
        threading.Thread(target=self._listen, args=(made,), daemon=True).start()
        return made


class _Child:
    """The part of Popen that a pool uses."""

    def __init__(self, pid: int, jobs: int, answers: int) -> None:
        self.pid, self.code = pid, 0
        self.stdin = os.fdopen(jobs, "w", encoding="utf-8")
        self.stdout = os.fdopen(answers, encoding="utf-8")
        self._guard, self._waited = threading.Lock(), False

    def kill(self) -> None:
        with self._guard:
            if not self._waited:
                os.kill(self.pid, 9)

    def wait(self) -> int:
        with self._guard:
            if not self._waited:
                self.code, self._waited = attacks.ended(self.pid), True
        return self.code


def ablate(folder: Path) -> None:
    """The grid's command, with forked workers."""
    (folder / "tiny.toml").write_text(attacks.TINY)
    state = grid.open_grid(folder / "tiny.toml", AXES, runs_dir=folder / "runs")
    with attacks.no_figures():
        grid.ablate(state, runs_dir=folder / "runs", workers=2)
    assert set(state.states.values()) == {"done"}, state.errors


def table(folder: Path) -> dict[str, str]:
    (found,) = folder.glob("runs/grids/*")
    files = (path for path in found.rglob("*") if path.is_file() and not path.name.startswith(".claim"))
    return {str(path.relative_to(found)): file_digest(path) for path in files if path.parent.name != "logs"}


def family(driver: int, used: dict[int, float]) -> float:
    """CPU seconds of a driver and of all its workers so far; `used` remembers those that have ended."""
    for task in Path(f"/proc/{driver}/task").glob("*/children"):
        try:
            children = [int(word) for word in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            used[child] = max(used.get(child, 0.0), attacks.cpu(child))
    used[driver] = max(used.get(driver, 0.0), attacks.cpu(driver))
    return sum(used.values())


def grid_storm(folder: Path, kills: int, seed: int) -> tuple[int, int, int]:
    """So many kills, half of drivers and half of a worker's driver with it; grids, kills, epochs trained again."""
    clean = folder / "clean"
    clean.mkdir()
    ablate(clean)  # in this process, so that its children have everything loaded
    expected = table(clean)
    distinct = set(trained(clean / "runs"))
    rng, grids, done, again = random.Random(seed), 0, 0, 0
    while done < kills:
        place = folder / str(grids)
        place.mkdir()
        while True:
            driver = attacks.forked(lambda place=place: ablate(place))  # type: ignore[misc]
            used: dict[int, float] = {}
            target = 2.0 * rng.random() ** 2
            while os.waitid(os.P_PID, driver, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                if family(driver, used) >= target:
                    os.kill(driver, 9)
                    break
                time.sleep(0.005)
            code = attacks.ended(driver)
            assert code in (0, -9), code
            if code == 0:
                break
            done += 1
            end = time.monotonic() + 60
            while any(Path(f"/proc/{child}").exists() and attacks.cpu(child) for child in used if child != driver):
                assert time.monotonic() < end, "a worker outlived its driver"
                time.sleep(0.01)
        assert table(place) == expected, place
        epochs = trained(place / "runs")
        assert set(epochs) == distinct
        again += len(epochs) - len(distinct)
        grids += 1
    return grids, done, again


@pytest.mark.slow
def test_a_hundred_kills_of_grids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebsim.grid.scheduler.Pool", ForkedPool)
    attacks.run(tmp_path / "warm")
    grids, kills, again = grid_storm(tmp_path, 100, seed=2)
    print(f"{kills} kills in {grids} grids of 4 cells: 0 lost, 0 tables differ, {again} epochs trained again")
