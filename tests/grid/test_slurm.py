"""A grid on a real Slurm of this machine: requeued, killed, warned and cancelled, it ends in the local grid's bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebsim.files import file_digest
from ebsim.runs import grid_folder
from ebsim.runs.locks import FolderLock
from tests.grid import slurm_cluster

ROOT = Path(__file__).parents[2]
GRID = """
name = "g"
methods = ["dense", "eb-train"]
[grid]
prune.ratio = [0.3, 0.5]
precision.search = ["fp32", "fp8"]
seed = ["0..1"]
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
[cluster]
time = "00:30:00"
warning = 60
sbatch = ["--comment=it's \\"quoted\\" $(touch escaped)"]
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(slurm_cluster.missing()), reason=f"not installed: {', '.join(slurm_cluster.missing())}"),
]


class Cluster:
    """The commands of a person on a login node, in one folder."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment = {**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.folder = folder
        (folder / "x.toml").write_text(GRID)

    def __call__(self, *words: str) -> str:
        return subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=True
        ).stdout

    def ebsim(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "cli.py"), *words]
        return subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)

    def submit(self, *more: str, engine: str = "slurm") -> list[str]:
        done = self.ebsim("ablate", "x.toml", "--on", engine, "--probe-steps", "0", "--json", *more)
        assert done.returncode == 0, done.stderr
        jobs: list[str] = json.loads(done.stdout)["jobs"]
        return jobs

    @property
    def grid(self) -> Path:
        (found,) = self.folder.glob("runs/grids/*")
        return found

    def queue(self) -> dict[str, str]:
        """Task -> its state."""
        lines = self("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)  # type: ignore[misc]

    def states(self) -> list[str]:
        return [cell.state for cell in grid_folder.cells(self.grid)]

    def wait_for(self, what: Callable[[], bool], seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, (self.queue(), self.states(), self.logs())
            time.sleep(0.2)

    def wait_until_empty(self) -> None:
        self.wait_for(lambda: not self.queue(), 600)

    def logs(self) -> str:
        return "\n".join(f"{log}:\n{log.read_text()[-500:]}" for log in self.grid.glob("tasks/logs/*.log"))

    def running_cell(self) -> tuple[int, int]:
        """(number, process) of a cell that is running."""
        for cell in grid_folder.cells(self.grid):
            if cell.state == "running" and (holder := FolderLock(cell.run).holder()) and holder.pid:
                return cell.number, holder.pid
        return 0, 0


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    with slurm_cluster.cluster() as made:
        yield made


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same grid in worker processes."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "x.toml").write_text(GRID)
    command = [sys.executable, str(ROOT / "cli.py"), "ablate", "x.toml", "--probe-steps", "0", "--workers", "2"]
    subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True, timeout=600
    )
    (found,) = folder.glob("runs/grids/*")
    return found


def outcome(grid: Path) -> dict[str, str]:
    """Path -> digest of everything that a grid ends in."""
    files = [path for path in grid.rglob("*") if path.is_file() and not path.name.startswith(".claim")]
    parts = {path.relative_to(grid): path for path in files}
    return {str(name): file_digest(path) for name, path in parts.items() if name.parts[0] not in ("tasks", "logs")}


def test_requeued_warned_and_killed(environment: dict[str, str], local: Path, tmp_path: Path) -> None:
    here = Cluster(environment, tmp_path)
    jobs = here.submit()
    script = (here.grid / "tasks/submit.sh").read_text()
    assert len(jobs) == script.count("\nsubmit ") and "--dependency=afterany:${search0}_1" in script
    assert 'it\'s "quoted" $(touch escaped)' in here("scontrol", "show", "job", jobs[0])
    assert not (tmp_path / "escaped").exists()

    again = here.ebsim("ablate", "x.toml", "--on", "slurm", "--probe-steps", "0")
    assert again.returncode == 5 and "in Slurm's queue" in again.stderr

    here.wait_for(lambda: "RUNNING" in here.queue().values())
    search = next(task for task, state in here.queue().items() if state == "RUNNING")
    here("scontrol", "requeue", search)  # by a person, or because of a node

    here.wait_for(lambda: here.running_cell()[0] > 0)
    warned = next(task for task, state in here.queue().items() if state == "RUNNING" and task.split("_")[0] != jobs[0])
    here("scancel", "--signal=USR1", "--batch", warned)  # what comes before the time limit
    here.wait_for(lambda: here.queue().get(warned) in ("PENDING", None))
    requeued = here("scontrol", "show", "job", warned) if warned in here.queue() else ""
    assert "Restarts=1" in requeued or not requeued  # it may have been done at that moment

    here.wait_for(lambda: here.running_cell()[0] > 0)
    killed, process = here.running_cell()
    os.kill(process, 9)
    here.wait_until_empty()
    assert here.states().count("failed") == 1 and here.states()[killed - 1] == "failed"
    watched = here.ebsim("runs", "watch", here.grid.name, "--once")
    assert f"cell {killed}  " in watched.stdout and "killed by signal 9" in watched.stdout
    assert "7 done, 1 failed" in watched.stderr
    assert "1 of 8 cells failed" in (here.grid / "table.md").read_text()
    nothing = here.ebsim("ablate", "x.toml", "--on", "slurm", "--probe-steps", "0")
    assert nothing.returncode == 2 and "no cell is left to run" in nothing.stderr

    here.submit("--retry-failed")
    here.wait_until_empty()
    assert here.states() == ["done"] * 8, here.logs()
    assert outcome(here.grid) == outcome(local)


def test_a_cancelled_array_stays_cancelled_and_goes_on_when_asked(
    environment: dict[str, str], local: Path, tmp_path: Path
) -> None:
    here = Cluster(environment, tmp_path)
    here.submit()
    here.wait_for(lambda: here.running_cell()[0] > 0)
    for kind in ("search", "cell", "table"):
        here("scancel", f"--name={here.grid.name}-{kind}")
    here.wait_until_empty()
    time.sleep(8)  # longer than a requeued task is held
    assert not here.queue()
    states = here.states()
    assert "running" not in states and "failed" not in states and states.count("done") < 8
    assert not (here.grid / "table.md").exists()
    here.submit()
    here.wait_until_empty()
    assert here.states() == ["done"] * 8, here.logs()
    assert outcome(here.grid) == outcome(local)


def test_a_refused_job_leaves_nothing_in_the_queue(environment: dict[str, str], tmp_path: Path) -> None:
    here = Cluster(environment, tmp_path)
    refused = here.ebsim("ablate", "x.toml", "--on", "slurm", "--probe-steps", "0", "--set", "cluster.partition=none")
    assert refused.returncode == 2 and "invalid partition" in refused.stderr, refused.stderr
    assert not here.queue()
    written = here.ebsim("ablate", "x.toml", "--on", "slurm", "--no-submit", "--probe-steps", "0")
    assert written.returncode == 0 and not here.queue()
    script = here.grid / "tasks/submit.sh"
    table = here.grid / "tasks/table.sbatch"
    table.write_text(table.read_text().replace("#SBATCH --requeue", "#SBATCH --partition=none"))
    half = subprocess.run(["bash", str(script)], cwd=tmp_path, env=here.environment, capture_output=True, text=True)
    assert half.returncode and "invalid partition" in half.stderr
    here.wait_until_empty()


def test_through_submitit(environment: dict[str, str], local: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    here = Cluster(environment, tmp_path)
    here.submit(engine="submitit")
    here.wait_for(lambda: here.running_cell()[0] > 0)
    warned = next(task for task, state in here.queue().items() if state == "RUNNING")
    here("scancel", "--signal=USR2", warned)  # submitit's own warning
    here.wait_until_empty()
    assert here.states() == ["done"] * 8, here.logs()
    assert outcome(here.grid) == outcome(local)
