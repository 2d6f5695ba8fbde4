"""The scripts of a grid for Slurm, run by bash with stand-ins for Slurm's commands: nothing of Slurm is needed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from ebsim.config import Cluster
from ebsim.errors import ConfigError
from ebsim.grid import slurm, slurm_scripts
from ebsim.grid.slurm_scripts import ranges, sbatch_quoted
from ebsim.grid.tasks import Tasks, tasks
from ebsim.runs import grid_folder
from ebsim.runs.grid_folder import FAILED, STOPPED, WAITING
from tests.cli.test_cli import ROOT

EXPERIMENT = """\
name = "g"
methods = ["dense", "eb-train"]
[data]
subset = 40
[model]
depth = 11
[train]
epochs = 2
milestones = []
batch_size = 40
[prune]
window = 2
threshold = 0.9
[cluster]
partition = "long"
memory = "8G"
gpus = 2
"""
GRID = ("--grid", "prune.ratio=0.3,0.5", "--grid", "seed=0..1", "--probe-steps", "0")


def stand_ins(folder: Path, **scripts: str) -> dict[str, str]:
    """An environment whose commands are these shell lines; each call is noted in `calls`."""
    place = folder / "bin"
    place.mkdir()
    for name, body in {"sbatch": "", "squeue": "", "scancel": "", "scontrol": "", **scripts}.items():
        text = f'#!/bin/bash\nprintf "%s\\n" "{name} $*" >> {folder}/calls\n{body}\n'
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    return {**os.environ, "PATH": f"{place}{os.pathsep}{os.environ['PATH']}"}


def calls(folder: Path, name: str) -> list[str]:
    path = folder / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]


COUNTING = 'n=$(wc -l < {0}/calls); echo "$n;cluster"'


def ablate(folder: Path, *words: str, runs_dir: str = "runs") -> tuple[int, str]:
    (folder / "x.toml").write_text(EXPERIMENT)
    done = CliRunner().invoke(cli.main, ["ablate", "x.toml", *GRID, "--runs-dir", runs_dir, *words])
    return done.exit_code, done.output


def test_shared_searches_come_first() -> None:
    need = {1: ["0 a"], 2: ["1 a"], 3: ["0 a", "0 b"], 4: ["1 a"], 5: ["0 b"], 6: ["0 c"], 8: []}
    found = tasks([1, 2, 3, 4, 5, 6, 7, 8], need)
    assert found.searches == (1, 2, 3)  # a of both seeds, and b; c is of one cell alone
    waits = {1: {1}, 2: {2}, 3: {1, 3}, 4: {2}, 5: {3}, 6: set(), 7: set(), 8: set()}
    assert found.cells == {number: frozenset(own) for number, own in waits.items()}
    assert dict(found.groups())[frozenset()] == [6, 7, 8]


def test_what_is_done_shares_nothing() -> None:
    assert tasks([4], {1: ["0 a"], 4: ["0 a"]}) == Tasks((), {4: frozenset()})


@pytest.mark.parametrize(
    ("numbers", "text"), [([1], "1"), ([1, 2, 3, 7], "1-3,7"), ([2, 4, 5], "2,4-5"), ([1, 3, 5], "1,3,5")]
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text


def test_indices_of_large_grids_stay_below_what_slurm_takes() -> None:
    cells = {number: frozenset({1500}) if number % 2 else frozenset() for number in range(1, 2501)}
    text = slurm_scripts.submit_script(Tasks((1500,), cells), Path("runs/grids/g"), Path("/home"))
    assert "submit --array=500 runs/grids/g/tasks/search.sbatch 1000\nsearch1000=$job" in text
    assert "--dependency=afterany:${search1000}_500 runs/grids/g/tasks/cell.sbatch 2000" in text
    indices = [int(word) for line in text.splitlines() if "cell.sbatch" in line
               for word in line.split("--array=")[1].split()[0].replace("-", ",").split(",")]  # fmt: skip
    assert max(indices) == 1000 and len(indices) == 2500
    assert text.count("cell.sbatch") == 6


def test_a_grid_is_submitted_with_its_dependencies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environment = stand_ins(tmp_path, sbatch=COUNTING.format(tmp_path))
    monkeypatch.setenv("PATH", environment["PATH"])
    code, said = ablate(tmp_path, "--on", "slurm", "--set", "cluster.time=90")
    assert code == 0, said
    sent = calls(tmp_path, "sbatch")
    grid = next(tmp_path.glob("runs/grids/g-*")).relative_to(tmp_path)
    # the queue was asked once before: the first job is number 2
    assert sent == [
        f"--parsable --array=1-2 {grid}/tasks/search.sbatch",
        f"--parsable --array=1,3 --dependency=afterany:2_1 {grid}/tasks/cell.sbatch",
        f"--parsable --array=2,4 --dependency=afterany:2_2 {grid}/tasks/cell.sbatch",
        f"--parsable --dependency=afterany:3:4 {grid}/tasks/table.sbatch",
    ]
    script = (grid / "tasks/cell.sbatch").read_text()
    for option in ("--partition=long", "--mem=8G", "--gpus=2", "--time=90", "--requeue", "--signal=B:USR1@120"):
        assert f"#SBATCH {option}\n" in script
    assert f"cli.py run {grid}/tasks/cells/NNNN.toml --runs-dir runs\n" in script  # what a person could type
    cell = cli.main.commands["check"]  # type: ignore[attr-defined]
    checked = CliRunner().invoke(cell, [str(grid / "tasks/cells/0003.toml")])
    assert checked.exit_code == 0, checked.output
    assert "[cluster]" not in (grid / "tasks/cells/0003.toml").read_text()
    assert "[cluster]" in (grid / "grid.toml").read_text()
    assert [cell.state for cell in grid_folder.cells(grid)] == [WAITING] * 4
    watched = CliRunner().invoke(cli.main, ["runs", "watch", "g", "--once"])
    assert "cell 3  prune.ratio=0.5 seed=0  waiting" in watched.output and "4 waiting" in watched.output


def test_a_grid_is_not_queued_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", stand_ins(tmp_path, squeue="echo 12_1")["PATH"])
    code, said = ablate(tmp_path, "--on", "slurm")
    assert code == 5 and "1 of its tasks are in Slurm's queue (12_1)" in said and not calls(tmp_path, "sbatch")


def test_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third job is refused: the first two are taken back."""
    monkeypatch.chdir(tmp_path)
    refusing = COUNTING.format(tmp_path) + '; [ "$n" -lt 4 ] || { echo "no such partition" >&2; exit 1; }'
    monkeypatch.setenv("PATH", stand_ins(tmp_path, sbatch=refusing)["PATH"])
    code, said = ablate(tmp_path, "--on", "slurm")
    assert code == 2 and "no such partition" in said and "nothing of it is queued" in said
    assert calls(tmp_path, "scancel") == ["2 3"]


def test_without_slurm_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shutil.which", lambda name, *rest, **options: None)
    code, said = ablate(tmp_path, "--on", "slurm")
    assert (
        code == 2 and "sbatch, squeue, scancel, scontrol: not found" in said and not list(tmp_path.glob("runs/grids"))
    )
    code, said = ablate(tmp_path, "--on", "slurm", "--no-submit")
    assert code == 0 and "submit with:  bash runs/grids/g-" in said
    assert ablate(tmp_path, "--no-submit")[0] == 2
    assert ablate(tmp_path, "--on", "slurm", "--workers", "2")[0] == 2
    code, said = ablate(tmp_path, "--collect")  # nothing is done yet, and nothing is run
    assert code == 0 and not list(tmp_path.glob("runs/*/results.json"))


HOSTILE = "a b'c\"d;$(touch escaped)`touch escaped`#%j &"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cell's script in a folder with a hostile name, whose program is the shell line in `program`."""
    monkeypatch.chdir(tmp_path)
    grid = Path(HOSTILE) / "grids/g-1"
    for part in ("cells", "logs", "exits"):
        (grid / "tasks" / part).mkdir(parents=True)
    program = tmp_path / "program"
    program.write_text('#!/bin/bash\necho "$@" >> told\n. ./does\n')
    program.chmod(0o755)
    text = slurm_scripts.run_script(
        "cell", "g-1", grid, Cluster(sbatch=("--comment=x y",)), [str(program)],
        cwd=tmp_path, runs_dir=HOSTILE, threads=3,
    )  # fmt: skip
    (tmp_path / "cell.sbatch").write_text(text)
    return tmp_path / "cell.sbatch"


def start(script: Path, does: str, index: str = "7", *words: str, restarts: str = "0") -> subprocess.Popen[bytes]:
    (script.parent / "does").write_text(does)
    if not (script.parent / "bin").exists():
        stand_ins(script.parent, scontrol="kill $PPID")  # Slurm ends the script
    own = {
        "SLURM_ARRAY_TASK_ID": index,
        "SLURM_ARRAY_JOB_ID": "5",
        "SLURM_JOB_ID": "12",
        "SLURM_RESTART_COUNT": restarts,
    }
    path = f"{script.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(["bash", str(script), *words], env={**os.environ, **own, "PATH": path})


def record(script: Path, number: int = 7) -> str:
    path = grid_folder.exit_file(script.parent / HOSTILE / "grids/g-1", number)
    return path.read_text() if path.exists() else ""


def requeues(script: Path) -> list[str]:
    return calls(script.parent, "scontrol")


def test_a_task_runs_the_command_of_its_cell(script: Path) -> None:
    assert start(script, "exit 0").wait(30) == 0
    assert start(script, "exit 0", "7", "2000").wait(30) == 0
    told = (script.parent / "told").read_text().splitlines()
    assert told[0] == f"run {HOSTILE}/grids/g-1/tasks/cells/0007.toml --runs-dir {HOSTILE}"
    assert "cells/2007.toml" in told[1]
    assert record(script) == "0 cell-5_7.log\n" and record(script, 2007)
    assert not (script.parent / "escaped").exists() and not requeues(script)
    head = script.read_text()
    assert "%%j &/grids/g-1/tasks/logs/cell-%A_%a.log" in head and '#SBATCH "--comment=x y"\n' in head
    assert "export OMP_NUM_THREADS=3\n" in head


@pytest.mark.parametrize("code", [75, 5])
def test_what_can_go_on_is_queued_again(script: Path, code: int) -> None:
    start(script, f"exit {code}").wait(30)
    assert requeues(script) == ["requeue 12"] and not grid_folder.failure(script.parent / HOSTILE / "grids/g-1", 7)


def test_a_run_that_is_held_is_not_waited_for_without_end(script: Path) -> None:
    assert start(script, "exit 5", restarts="20").wait(30) == 5
    assert not requeues(script) and record(script).startswith("5 ")


def test_a_failure_is_noted_with_the_end_of_its_log(script: Path) -> None:
    grid = script.parent / HOSTILE / "grids/g-1"
    (grid / "tasks/logs/cell-5_7.log").write_text("one\nthe loss is not finite\n")
    assert start(script, "exit 6").wait(30) == 6
    assert "exit code 6" in grid_folder.failure(grid, 7) and "the loss is not finite" in grid_folder.failure(grid, 7)
    assert start(script, "kill -9 $$").wait(30) == 137
    assert "killed by signal 9" in grid_folder.failure(grid, 7) and not requeues(script)


WAITS = "trap 'exit 75' TERM USR1; touch ready; for i in $(seq 600); do sleep 0.05; done"


def signalled(script: Path, number: signal.Signals) -> subprocess.Popen[bytes]:
    process = start(script, WAITS)
    for _ in range(600):
        if (script.parent / "ready").exists():
            break
        time.sleep(0.05)
    process.send_signal(number)
    process.wait(30)
    return process


def test_the_warning_before_the_time_limit_queues_it_again(script: Path) -> None:
    signalled(script, signal.SIGUSR1)
    assert requeues(script) == ["requeue 12"] and not grid_folder.failure(script.parent / HOSTILE / "grids/g-1", 7)


def test_what_slurm_ends_is_not_queued_again(script: Path) -> None:
    assert signalled(script, signal.SIGTERM).returncode == 75
    assert not requeues(script) and record(script).startswith("75 ")
    assert grid_folder.failure(script.parent / HOSTILE / "grids/g-1", 7) == ""


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"x y", b"6 ../../../../etc/passwd", b"6 \0", b"9" * 5000])
def test_a_damaged_exit_code_is_no_harm(tmp_path: Path, content: bytes) -> None:
    grid = tmp_path / "g"
    grid_folder.note_exit(grid, 1, 6)
    grid_folder.exit_file(grid, 1).write_bytes(content)
    assert "root" not in grid_folder.failure(grid, 1)


def test_states_of_cells(tmp_path: Path) -> None:
    runs, grid = tmp_path / "runs", tmp_path / "runs/grids/g"
    for name in ("a", "b", "c"):
        (runs / name).mkdir(parents=True)
        (runs / name / "experiment.toml").write_text("")
    grid_folder.note_exit(grid, 2, 3)
    lines = [{"cell": n, "settings": {"seed": n}, "run": name, "state": "pending"} for n, name in enumerate("abcd", 1)]
    lines[2] |= {"state": "failed", "error": "diverged"}
    import json

    (grid / "cells.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = grid_folder.cells(grid)
    assert [cell.state for cell in found] == [STOPPED, FAILED, FAILED, WAITING]
    assert found[2].line == "cell 3  seed=3  failed, diverged" and "exit code 3" in found[1].detail
    assert (
        grid_folder.find("g", runs) == grid_folder.find(str(grid), runs) == grid and grid_folder.find("b", runs) is None
    )


def test_sbatch_lines_are_quoted() -> None:
    assert sbatch_quoted("--time=1-00:00:00") == "--time=1-00:00:00"
    assert sbatch_quoted('--comment=a "b" \\ #c') == '"--comment=a \\"b\\" \\\\ #c"'
    for text in ("a\nb", "a\0", "a\u2028b"):
        with pytest.raises(ConfigError, match="cannot stand"):
            sbatch_quoted(text)


def test_cancel_names_every_kind() -> None:
    assert slurm.cancel_command("g-1").count("scancel --name=g-1-") == 3
    assert ROOT.is_dir()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("partition", "a b"), ("partition", "a\n#SBATCH --uid=0"), ("partition", ""), ("time", "soon"), ("time", "-1"),
        ("memory", "8 G"), ("memory", "8GB;"), ("gpus", -1), ("warning", 1), ("sbatch", "account=x"),
        ("sbatch", "--array=1-5"), ("sbatch", "--arr=1-5"), ("sbatch", "--out=/tmp/x"), ("sbatch", "--a\nb"),
        ("sbatch", ["--account=a", "--comment=\x1b[2J"]), ("node", "x"),
    ],
)  # fmt: skip
def test_hostile_wishes_are_refused(tmp_path: Path, key: str, value: object) -> None:
    from ebsim import pipeline

    (tmp_path / "x.toml").write_text('name = "x"\n')
    with pytest.raises(ConfigError, match=f"cluster.{key}"):
        pipeline.load(tmp_path / "x.toml", {f"cluster.{key}": value})


def test_the_cluster_changes_no_result(tmp_path: Path) -> None:
    from ebsim import pipeline
    from ebsim.config.write import to_toml

    (tmp_path / "x.toml").write_text('name = "x"\n')
    plain = pipeline.load(tmp_path / "x.toml")
    asking = pipeline.load(
        tmp_path / "x.toml", {"cluster.gpus": 4, "cluster.time": 30, "cluster.sbatch": "--exclusive"}
    )
    assert plain.identity() == asking.identity() and "cluster" not in to_toml(plain)
    assert asking.cluster.time == "30" and "--exclusive" in to_toml(asking)
