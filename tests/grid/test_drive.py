"""A real grid: nothing trained twice, cells are ordinary runs, failures are contained, kills change nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import scipy.stats

from ebsim import grid, pipeline
from ebsim.errors import BusyError, CellsFailedError, StoppedError
from ebsim.files import read_json
from ebsim.grid.scheduler import run_cells
from ebsim.grid.state import DONE, FAILED, PENDING
from ebsim.runs.store import Stage, exclusive

ROOT = Path(__file__).parents[2]
BASE = """
name = "g"
methods = {methods}
[data]
subset = 60
[model]
depth = 11
[train]
epochs = 4
batch_size = 30
milestones = [3]
device = "cpu"
[prune]
threshold = 0.9
window = 2
"""
METHODS = ["dense", "eb-train", "network-slimming", "lottery-ticket"]
AXES = ("precision.search=fp32,fp8", "prune.ratio=0.3,0.5,0.7", "seed=0..1")


def experiment(folder: Path, methods: list[str]) -> Path:
    path = folder / "x.toml"
    path.write_text(BASE.format(methods=json.dumps(methods)))
    return path


def opened(folder: Path, axes: tuple[str, ...] = AXES, methods: list[str] = METHODS, **options: bool) -> grid.GridState:
    return grid.open_grid(experiment(folder, methods), axes, runs_dir=folder / "runs", **options)


def stages(runs: Path) -> dict[str, Stage]:
    return {path.name: Stage(path.name, path, {}) for path in sorted(runs.glob("stages/*"))}


def trained(runs: Path) -> list[tuple[str, int]]:
    """Every epoch in the event logs, replayed ones included."""
    return [(name, event["epoch"]) for name, stage in stages(runs).items() for event in stage.events()
            if event["event"] == "epoch"]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, grid.GridPlan]:
    """2 precisions x 3 ratios x 2 seeds with two workers, undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    grid_state = opened(folder)
    plan = grid.draw_up(grid_state, folder / "runs", probe_steps=1)
    assert grid.ablate(grid_state, runs_dir=folder / "runs", workers=2) is not None
    assert grid_state.states == dict.fromkeys(range(1, 13), DONE), grid_state.errors
    return folder, plan


def test_nothing_is_trained_twice(whole: tuple[Path, grid.GridPlan]) -> None:
    folder, _ = whole
    grid_state = opened(folder)
    count = grid.counted(grid_state, folder / "runs")
    epochs = trained(folder / "runs")
    assert count.trained == count.distinct == len(epochs) == len(set(epochs))
    # By hand. Dense: fp32 and fp8, 2 seeds, 4 epochs. Emergence is at epoch 3, the first with two distances between
    # trained masks: EB retrains 1 epoch; slimming and the lottery ticket 4. 2 precisions x 3 ratios x 2 seeds of each.
    assert len(epochs) == 2 * 2 * 4 + 12 * (1 + 4 + 4)
    assert len([name for name in stages(folder / "runs") if name.startswith("dense-")]) == 4
    # From the ledgers: a cell alone would train dense 4, EB 3 + 1, slimming 4 + 4, lottery 4 + 4.
    assert count.asked == 12 * (4 + 4 + 8 + 8)


def test_the_plan_knew(whole: tuple[Path, grid.GridPlan]) -> None:
    folder, plan = whole
    count = grid.counted(opened(folder), folder / "runs")
    assert (plan.trainings, plan.epochs, plan.asked) == (count.stages, count.distinct, count.asked)
    assert (plan.cells, plan.to_run, plan.dense) == (12, 12, 4)
    assert set(plan.step_seconds) == {"fp32", "fp8"} and plan.seconds > 0
    assert plan.joules > 0


def test_the_table_is_that_of_the_runs(whole: tuple[Path, grid.GridPlan]) -> None:
    folder, _ = whole
    grid_state = opened(folder)
    lines = json.loads((grid_state.folder / "table.json").read_text())
    assert len(lines) == 1 + 2 * 3 * 3
    [line] = [
        one for one in lines
        if (one["method"], one["ratio"], one["search_precision"]) == ("eb-train", 0.5, "fp8")
    ]  # fmt: skip
    rows = [
        row
        for cell in grid_state.grid.cells
        if (cell.settings["precision.search"], cell.settings["prune.ratio"]) == ("fp8", 0.5)
        for row in json.loads((grid_state.runs[cell.number] / "results.json").read_text())["rows"]
        if row["method"] == "eb-train"
    ]
    values = [row["accuracy"] for row in rows]
    low, high = scipy.stats.t.interval(0.95, 1, sum(values) / 2, scipy.stats.sem(values))
    assert [line["accuracy_low"], line["accuracy_high"]] == pytest.approx([low, high], abs=1e-9)
    assert (line["n"], line["epoch_drawn"]) == (2, 3)
    assert line["joules"] == pytest.approx(sum(row["energy"]["joules"] for row in rows) / 2)


def test_a_cell_is_an_ordinary_run(whole: tuple[Path, grid.GridPlan]) -> None:
    folder, _ = whole
    cell = opened(folder).grid.cells[7]
    run = pipeline.run(folder / "x.toml", cell.settings, runs_dir=folder / "runs")
    assert run.reused and run.path == opened(folder).runs[cell.number]


WINDOWS = ("prune.window=2,3",)  # tickets at epochs 3 and 4 of one dense training


def windows(folder: Path) -> grid.GridState:
    overrides = {"train.epochs": 5}
    return grid.open_grid(experiment(folder, ["dense", "eb-train"]), WINDOWS, overrides, runs_dir=folder / "runs")


def test_states_that_another_cell_will_ask_for_are_kept(tmp_path: Path) -> None:
    grid_state = windows(tmp_path)
    grid.ablate(grid_state, runs_dir=tmp_path / "runs")
    drawn = [row["epoch_drawn"] for run in grid_state.runs.values() for row in read_json(run / "results.json")["rows"]]
    assert drawn == [None, 3, None, 4]
    epochs = trained(tmp_path / "runs")
    assert len(epochs) == len(set(epochs)) == 5 + 2 + 1


@pytest.mark.slow
def test_without_being_told_a_state_is_trained_again(tmp_path: Path) -> None:
    """What the test above would see if cells did not know of each other."""
    for cell in windows(tmp_path).grid.cells:
        pipeline.run_experiment(cell.experiment, tmp_path / "runs")
    epochs = trained(tmp_path / "runs")
    assert len(set(epochs)) == 8 and len(epochs) > 8


PAIR = ("seed=1..2",)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """Two cells, undisturbed, and what their grid ended in."""
    folder = tmp_path_factory.mktemp("pair")
    return folder, final(folder, PAIR, ["dense"])


def final(folder: Path, axes: tuple[str, ...], methods: list[str]) -> dict[str, bytes]:
    """Run what is left and return everything that the grid ends in."""
    grid_state = opened(folder, axes, methods)
    grid.ablate(grid_state, runs_dir=folder / "runs", workers=2)
    assert grid_state.cells(DONE) == grid_state.grid.cells, grid_state.errors
    files = [path.relative_to(grid_state.folder) for path in grid_state.folder.rglob("*") if path.is_file()]
    kept = [path for path in files if path.parts[0] != "logs" and not path.name.startswith(".")]
    return {path.as_posix(): (grid_state.folder / path).read_bytes() for path in kept}


def test_a_second_time_everything_is_found(pair: tuple[Path, dict[str, bytes]]) -> None:
    folder, files = pair
    before = trained(folder / "runs")
    assert {"table.md", "table.csv", "table.tex", "table.json", "cells.csv", "cells.jsonl", "grid.toml",
            "figures/accuracy_energy.svg"} <= set(files)  # fmt: skip
    assert final(folder, PAIR, ["dense"]) == files
    assert trained(folder / "runs") == before


def test_grid_toml_is_the_grid(pair: tuple[Path, dict[str, bytes]]) -> None:
    folder, _ = pair
    grid_state = opened(folder, PAIR, ["dense"])
    again = grid.open_grid(grid_state.folder / "grid.toml", runs_dir=folder / "runs")
    assert (again.folder, again.runs, again.grid.axes) == (grid_state.folder, grid_state.runs, grid_state.grid.axes)


def test_a_changed_run_is_noticed_and_made_anew_on_request(pair: tuple[Path, dict[str, bytes]]) -> None:
    folder, files = pair
    before = trained(folder / "runs")
    results = opened(folder, PAIR, ["dense"]).runs[2] / "results.json"
    results.write_text(results.read_text().replace('"accuracy"', '"acuracy"', 1))
    found = opened(folder, PAIR, ["dense"])
    assert found.states == {1: DONE, 2: FAILED} and "results.json was changed" in found.errors[2]
    grid.ablate(found, runs_dir=folder / "runs")
    assert "1 of 2 cells failed" in (found.folder / "table.md").read_text()
    with pytest.raises(CellsFailedError, match="cell 2"):
        grid.raise_if_failed(found)
    again = opened(folder, PAIR, ["dense"], retry_failed=True)
    assert again.states == {1: DONE, 2: PENDING}
    grid.ablate(again, runs_dir=folder / "runs")
    assert final(folder, PAIR, ["dense"]) == files
    assert trained(folder / "runs") == before  # what was trained is in the store of stages


FAILING = ("train.lr=1e30,0.1",)


class Holder:
    """Holds a run until the driver has said that it waits for it."""

    def __init__(self, run: Path) -> None:
        self.notes: list[str] = []
        self._held = contextlib.ExitStack()
        self._held.enter_context(exclusive(run))

    def started(self, cell: object, grid_state: grid.GridState) -> None: ...

    def heard(self, cell: object, message: dict) -> None:
        if message["kind"] == "note":
            self.notes.append(message["text"])
            self._held.close()

    def ended(self, cell: object, grid_state: grid.GridState) -> None: ...


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, grid.GridState, Holder]:
    """One cell diverges; the other is held by another process for a while."""
    folder = tmp_path_factory.mktemp("failing")
    grid_state = opened(folder, FAILING, ["dense"])
    holder = Holder(grid_state.runs[2])
    run_cells(grid_state, folder / "runs", watch=holder)
    return folder, grid_state, holder


def test_a_failing_cell_spoils_no_other(failing: tuple[Path, grid.GridState, Holder]) -> None:
    folder, grid_state, _ = failing
    assert grid_state.states == {1: FAILED, 2: DONE}
    assert grid_state.errors[1].startswith("DivergedError") and "train.lr" in grid_state.errors[1]
    assert [json.loads(line)["state"] for line in (grid_state.folder / "cells.jsonl").read_text().splitlines()] == [
        FAILED, DONE,
    ]  # fmt: skip
    assert opened(folder, FAILING, ["dense"]).states == {1: FAILED, 2: DONE}  # remembered, and not tried unasked
    assert opened(folder, FAILING, ["dense"], retry_failed=True).states == {1: PENDING, 2: DONE}


def test_a_run_somebody_else_holds_is_waited_for(failing: tuple[Path, grid.GridState, Holder]) -> None:
    _, grid_state, holder = failing
    assert len(holder.notes) == 1 and f"held by process {os.getpid()}" in holder.notes[0]
    assert grid_state.states[2] == DONE


def test_one_driver_per_grid(tmp_path: Path) -> None:
    grid_state = opened(tmp_path, methods=["dense"])
    with exclusive(grid_state.folder), pytest.raises(BusyError):
        run_cells(grid_state, tmp_path / "runs")


def test_stop_is_asked_for_between_messages(tmp_path: Path) -> None:
    grid_state = opened(tmp_path, PAIR, ["dense"])

    def check() -> None:
        raise StoppedError("stop")

    with pytest.raises(StoppedError):
        run_cells(grid_state, tmp_path / "runs", check=check)
    assert opened(tmp_path, PAIR, ["dense"]).states == {1: PENDING, 2: PENDING}


def test_the_command_line(failing: tuple[Path, grid.GridState, Holder]) -> None:
    """stdout is the result, stderr the talk; exit 7 tells of failed cells, exit 2 of a bad grid."""
    folder, grid_state, _ = failing

    def ablate(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command(folder, *words), cwd=ROOT, capture_output=True, text=True)

    done = ablate("--grid", FAILING[0], "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == 7 and "DivergedError" in done.stderr and "--retry-failed" in done.stderr
    assert answer["grid"] == str(grid_state.folder) and [cell["state"] for cell in answer["cells"]] == [FAILED, DONE]
    assert answer["epochs"] == {"trained": 4, "distinct": 4, "asked": 4, "stages": 1}
    plan = ablate("--grid", "seed=5..7", "--plan-only", "--json")
    assert plan.returncode == 0 and json.loads(plan.stdout)["epochs"] == 12
    bad = ablate("--grid", "prune.ratio=2")
    assert bad.returncode == 2 and bad.stdout == "" and "prune.ratio" in bad.stderr
    base = ablate("--grid", FAILING[0], "--baseline", "snip")
    assert base.returncode == 2 and "--baseline snip" in base.stderr


def command(folder: Path, *options: str) -> list[str]:
    return [sys.executable, "cli.py", "ablate", str(folder / "x.toml"), "--runs-dir", str(folder / "runs"),
            "--probe-steps", "0", *options]  # fmt: skip


def children(pid: int) -> list[int]:
    return [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has asked after does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def end_driver(folder: Path, axes: tuple[str, ...], epochs: int, how: signal.Signals = signal.SIGKILL) -> int:
    """Start the driver, end it once `epochs` more epochs are on record, see its workers end; its exit code.

    SIGKILL goes to the driver alone, others to its whole group, as a terminal or a batch system sends them.
    """
    aim = len(trained(folder / "runs")) + epochs
    words = [word for axis in axes for word in ("--grid", axis)]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command(folder, *words, "--workers", "2"), cwd=ROOT, start_new_session=True, **silent)
    try:
        wait_for(lambda: process.poll() is not None or len(trained(folder / "runs")) >= aim)
        workers = children(process.pid)
        assert process.poll() is None and workers
        (os.kill if how == signal.SIGKILL else os.killpg)(process.pid, how)
        process.wait(timeout=300)
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not any(map(alive, workers)))
    return process.returncode


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="looks at processes through /proc")
def test_an_ended_driver_leaves_no_worker_and_changes_no_table(
    pair: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    experiment(tmp_path, ["dense"])
    assert end_driver(tmp_path, PAIR, 1, signal.SIGTERM) == 75
    assert opened(tmp_path, PAIR, ["dense"]).cells(FAILED) == []
    assert end_driver(tmp_path, PAIR, 1) == -signal.SIGKILL
    assert final(tmp_path, PAIR, ["dense"]) == pair[1]
    assert set(trained(tmp_path / "runs")) == set(trained(pair[0] / "runs"))


@pytest.mark.slow
def test_the_whole_grid_killed_again_and_again(whole: tuple[Path, grid.GridPlan], tmp_path: Path) -> None:
    experiment(tmp_path, METHODS)
    kills = (1, 5, 9, 13, 17, 23, 31)
    for epochs in kills:
        end_driver(tmp_path, AXES, epochs)
    killed = final(tmp_path, AXES, METHODS)
    clean = final(whole[0], AXES, METHODS)
    assert killed == clean
    epochs = trained(tmp_path / "runs")
    assert set(epochs) == set(trained(whole[0] / "runs"))
    assert len(epochs) - len(set(epochs)) <= 2 * len(kills)  # at most the epoch each worker was committing


def test_strict_refuses_what_was_trained_under_other_conditions(tmp_path: Path) -> None:
    """With two threads by `run`; a grid's cells have one. Stages of a removed run are reused, unless it is strict."""
    from ebsim.pipeline.search import train_dense

    path = experiment(tmp_path, ["dense"])
    train_dense(pipeline.load(path, {"train.threads": 2, "seed": 0}), tmp_path / "runs")
    grid_state = opened(tmp_path, ("seed=0",), ["dense"])
    grid.ablate(grid_state, runs_dir=tmp_path / "runs", strict=True)
    assert grid_state.states == {1: FAILED}
    assert "threads changed" in grid_state.errors[1] and "--strict" in grid_state.errors[1]
    again = opened(tmp_path, ("seed=0",), ["dense"], retry_failed=True)
    grid.ablate(again, runs_dir=tmp_path / "runs")
    assert again.states == {1: DONE}
