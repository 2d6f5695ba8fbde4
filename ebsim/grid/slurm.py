"""A grid on Slurm: its scripts written into the grid's folder and submitted, and what the queue has of it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ebsim.errors import BusyError, ConfigError
from ebsim.files import write_atomic
from ebsim.grid import slurm_scripts, tasks
from ebsim.grid.plan import GridPlan
from ebsim.grid.state import PENDING, GridState
from ebsim.runs.grid_folder import TASKS
from ebsim.runs.store import exclusive

KINDS = ("search", "cell", "table")


def write(
    grid_state: GridState, plan: GridPlan, runs_dir: str, options: Sequence[str] = (), *, strict: bool = False
) -> Path:
    """Write the scripts, and the experiment of every cell to run; returns the script that submits them all.

    options: of `ablate --collect`, for the table. Raises `BusyError` while a driver or Slurm has the grid.
    """
    folder, cwd = grid_state.folder, Path.cwd()
    cluster = grid_state.grid.cells[0].experiment.cluster
    chosen = tasks.tasks(pending(grid_state), plan.searches)
    name, program, threads = folder.name, tasks.program(), tasks.threads(grid_state)
    contents = {
        f"{kind}.sbatch": slurm_scripts.run_script(
            kind, name, folder, cluster, program,
            cwd=cwd, runs_dir=runs_dir, threads=threads, processes=tasks.processes(grid_state), strict=strict,
        )
        for kind in ("search", "cell")
    }  # fmt: skip
    contents["table.sbatch"] = slurm_scripts.table_script(
        name, folder, cluster, tasks.table_command(folder, runs_dir, options), cwd=cwd, threads=threads
    )
    contents["submit.sh"] = slurm_scripts.submit_script(chosen, folder, cwd)
    with exclusive(folder):
        refuse_queued(folder)
        grid_state.open()
        tasks.write_cells(grid_state)
        for file, text in contents.items():
            write_atomic(folder / TASKS / file, text)
    return folder / TASKS / "submit.sh"


def pending(grid_state: GridState) -> list[int]:
    """The numbers of the cells that are still to run; `ConfigError` where none is."""
    found = [cell.number for cell in grid_state.cells(PENDING)]
    if not found:
        raise ConfigError(f"{grid_state.folder}: no cell is left to run (--retry-failed runs failed ones again).")
    return found


def refuse_queued(folder: Path) -> None:
    """`BusyError` while tasks of a grid are in the queue."""
    if jobs := queued(folder.name):
        raise BusyError(
            f"{folder}: {len(jobs)} of its tasks are in Slurm's queue ({', '.join(jobs[:5])}). Wait for them, or: "
            f"{cancel_command(folder.name)}"
        )


def submit(script: Path) -> list[str]:
    """Run the script that submits; the ids of its jobs. Raises `ConfigError` with what Slurm said."""
    require()
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip() or f"exit code {done.returncode}"
        raise ConfigError(f"Slurm did not take the grid, and nothing of it is queued: {said}\nThe script: {script}")
    return done.stdout.split()


def require() -> None:
    """`ConfigError` where Slurm's commands are missing."""
    missing = [name for name in ("sbatch", "squeue", "scancel", "scontrol") if shutil.which(name) is None]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)}: not found. --on slurm has to run where jobs are submitted from; --no-submit writes "
            "the scripts anywhere."
        )


def names(grid: str) -> str:
    """The names of a grid's jobs, as squeue and scancel take them."""
    return ",".join(f"{grid}-{kind}" for kind in KINDS)


def cancel_command(grid: str) -> str:
    """What ends every task of a grid."""
    return " ; ".join(f"scancel --name={shlex.quote(f'{grid}-{kind}')}" for kind in KINDS)


def queued(grid: str) -> list[str]:
    """Ids of a grid's tasks that wait or run; none where there is no Slurm, or it does not answer."""
    if shutil.which("squeue") is None:
        return []
    command = ["squeue", "--noheader", "--array", f"--name={names(grid)}", "--format=%i"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split()
