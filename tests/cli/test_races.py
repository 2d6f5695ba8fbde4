"""Two processes start the same run at the same moment: one whole result, whoever comes first and whoever is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ebsim import pipeline
from ebsim.errors import BusyError
from ebsim.runs.run_folder import RunFolder

TINY = """\
name = "tiny"
methods = ["dense"]
[data]
subset = 40
[model]
depth = 11
[train]
epochs = 1
milestones = []
batch_size = 40
threads = 1
"""


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebsim.report.figures.PLOTS", ())  # plotting is most of what a tiny run takes


def run(root: Path) -> pipeline.Run:
    return pipeline.run(root / "tiny.toml", runs_dir=root / "runs")


def forked(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BusyError:
            code = 5
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def sound(root: Path) -> dict[str, str]:
    """The run is done, holds, and lists every file but its manifest; its digests."""
    (folder,) = root.glob("runs/tiny-*")
    assert RunFolder(folder).is_done
    RunFolder(folder).verify()
    files = json.loads((folder / "MANIFEST.json").read_text())["files"]
    assert "MANIFEST.json" not in files and "results.json" in files
    assert not list(folder.rglob(".*.tmp"))
    assert run(root).reused
    return files


def test_the_second_of_two_finds_the_run_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looked before the first had finished, and takes the lock after that."""
    (tmp_path / "tiny.toml").write_text(TINY)
    real, calls = pipeline.execute.exclusive, []

    def late(folder: Path) -> object:
        if not calls:
            calls.append(1)
            run(tmp_path)
        return real(folder)

    monkeypatch.setattr(pipeline.execute, "exclusive", late)
    assert run(tmp_path).reused and calls
    sound(tmp_path)


def pairs(root: Path, count: int, seed: int) -> dict[int, int]:
    rng, codes = random.Random(seed), {0: 0, 5: 0, -9: 0}
    for number in range(count):
        place = root / str(number)
        place.mkdir()
        (place / "tiny.toml").write_text(TINY)
        children = [forked(lambda place=place: run(place)) for _ in range(2)]  # type: ignore[misc]
        if number % 2:
            time.sleep(rng.uniform(0, 1.5))
            os.kill(children[1], signal.SIGKILL)
        for child in children:
            codes[ended(child)] += 1
        if not RunFolder(next(place.glob("runs/tiny-*"))).is_done:  # the winner was the one that was killed
            assert number % 2
            run(place)
        sound(place)
    return codes


def test_racing_pairs_leave_a_sound_run(tmp_path: Path) -> None:
    codes = pairs(tmp_path, 4, seed=0)
    assert codes[0] >= 2


@pytest.mark.slow
def test_a_hundred_racing_pairs(tmp_path: Path) -> None:
    codes = pairs(tmp_path, 100, seed=1)
    print(codes)
    assert codes[0] >= 50
