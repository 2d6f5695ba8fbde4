"""A grid through submitit, for those who have it set up: the same commands, as its jobs (the extra `submitit`).

A job starts the command and waits. When submitit is told that its time is nearly over it stops the command at a
checkpoint and queues itself again.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ebsim.errors import ConfigError
from ebsim.files import make_folder
from ebsim.grid import slurm, tasks
from ebsim.grid.plan import GridPlan
from ebsim.grid.state import GridState
from ebsim.runs.grid_folder import AGAIN, TASKS, note_exit
from ebsim.runs.store import exclusive


class Command:
    """What a job does: one command in a folder. record: the grid's folder and the cell's number, where it is a cell."""

    def __init__(self, words: Sequence[str], cwd: str, threads: int, record: tuple[str, int] | None = None) -> None:
        self.words, self.cwd, self.threads, self.record = list(words), cwd, threads, record
        self._child: subprocess.Popen[bytes] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_child": None}

    def __call__(self) -> int:
        """Run the command; its exit code. `RuntimeError` for a bad one, so that submitit shows a failed job."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        self._child = subprocess.Popen(self.words, cwd=self.cwd, env=environment, preexec_fn=_ignore_warning)
        code = self._child.wait()
        code = 128 - code if code < 0 else code
        if self.record is not None and code not in AGAIN:
            note_exit(Path(self.cwd) / self.record[0], self.record[1], code)
        if code:
            raise RuntimeError(f"exit code {code}: {shlex.join(self.words)}")
        return code

    def checkpoint(self) -> Any:
        """Called by submitit before the time is over: stop at a checkpoint, and the same job again."""
        import submitit

        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGUSR1)
            self._child.wait()
        return submitit.helpers.DelayedSubmission(self)


def _ignore_warning() -> None:
    """submitit's own signal goes to every process of a job; the command waits for ours."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def submit(
    grid_state: GridState, plan: GridPlan, runs_dir: str, options: Sequence[str] = (), *, strict: bool = False
) -> list[str]:
    """Submit a grid's searches, cells and table; the ids of the jobs.

    Raises `ConfigError` where submitit or Slurm is missing, `BusyError` while a driver or the queue has the grid.
    """
    try:
        import submitit
    except ImportError as error:
        raise ConfigError('--on submitit needs the extra: pip install "ebsim[submitit]"') from error
    slurm.require()
    pending = slurm.pending(grid_state)
    folder, cwd, program, threads = grid_state.folder, str(Path.cwd()), tasks.program(), tasks.threads(grid_state)
    if grid_state.grid.cells[0].experiment.cluster.time is None:
        raise ConfigError("--on submitit: set cluster.time, the time limit of a task; submitit's default is 5 minutes.")
    chosen = tasks.tasks(pending, plan.searches)
    flags = ["--runs-dir", runs_dir, *(["--strict"] if strict else [])]

    def command(number: int, *more: str) -> Command:
        words = [*program, "run", str(tasks.cell_file(folder, number)), *flags, *more]
        return Command(words, cwd, threads, None if more else (str(folder), number))

    table = tasks.table_command(folder, runs_dir, options)
    with exclusive(folder), _importable():
        slurm.refuse_queued(folder)
        grid_state.open()
        tasks.write_cells(grid_state)
        jobs = folder / TASKS / "submitit"
        make_folder(jobs)
        executor = submitit.AutoExecutor(folder=jobs, cluster="slurm", slurm_max_num_timeout=1000)

        def send(kind: str, work: Sequence[Command], after: Sequence[str] = ()) -> list[Any]:
            executor.update_parameters(**_parameters(grid_state, f"{folder.name}-{kind}", after))
            return list(executor.submit_array(work)) if work else []

        made = send("search", [command(number, "--search-only") for number in chosen.searches])
        searches = {number: job.job_id for number, job in zip(chosen.searches, made, strict=True)}
        cells = []
        for needed, members in chosen.groups():
            cells += send("cell", [command(number) for number in members], [searches[n] for n in sorted(needed)])
        arrays = dict.fromkeys(job.job_id.partition("_")[0] for job in cells)
        made += [*cells, *send("table", [Command(table, cwd, threads)], list(arrays))]
        return [job.job_id for job in made]


def _parameters(grid_state: GridState, name: str, after: Sequence[str]) -> dict[str, Any]:
    """What submitit is told of one array."""
    cluster = grid_state.grid.cells[0].experiment.cluster
    asked = {"partition": cluster.partition, "time": cluster.time, "mem": cluster.memory, "gpus": cluster.gpus or None}
    extra: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
    for option in cluster.sbatch:
        key, sign, value = option.removeprefix("--").partition("=")
        extra[key] = value if sign else True
    if after:
        extra["dependency"] = "afterany:" + ":".join(after)
    cpus = tasks.threads(grid_state) * tasks.processes(grid_state)
    return {
        "name": name,
        "cpus_per_task": cpus,
        "slurm_signal_delay_s": cluster.warning,
        "slurm_additional_parameters": {**extra, "requeue": True},
    }


@contextlib.contextmanager
def _importable() -> Iterator[None]:
    """Jobs import this module, so they are told where this ebsim is."""
    before = os.environ.get("PYTHONPATH")
    home = str(Path(__file__).parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join([home, *filter(None, (before or "").split(os.pathsep))])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
