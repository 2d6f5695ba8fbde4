"""A grid's folder, read from any machine that sees it: where each cell stands, without torch and without the driver.

Done is what a run's own manifest says, running what its lock says. A cell that was run as a task of a batch system
leaves its exit code behind (`exit_file`); why it failed is in its log.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebsim.errors import BusyError, DamagedError, StoppedError
from ebsim.files import canonical_json, write_atomic
from ebsim.runs.inventory import called, holder, progress_lines, run_names
from ebsim.runs.locks import FolderLock
from ebsim.runs.run_folder import RunFolder

TASKS, LOGS, EXITS = "tasks", "logs", "exits"
"""In a grid's folder: scripts and cells of its tasks, and in that the output and the exit codes of the tasks."""
DONE, RUNNING, FAILED, STOPPED, WAITING = "done", "running", "failed", "stopped", "waiting"
_TAIL = 4  # lines of a log that are told
AGAIN = (BusyError.exit_code, StoppedError.exit_code)  # codes after which the same task goes on


@dataclass(frozen=True)
class CellView:
    """One cell: its number from 1, what it is, where it stands and since when, what it does, or why it failed."""

    number: int
    label: str
    run: Path
    state: str
    detail: str = ""

    @property
    def line(self) -> str:
        return f"cell {self.number}  {self.label}  {self.state}{f', {self.detail}' if self.detail else ''}"


def find(word: str, root: Path) -> Path | None:
    """The folder of a grid that a word means: its path, its name, or a unique beginning of that; a run of exactly that
    name, or the only one that begins so, comes first."""
    folders = {path.parent.name: path.parent for path in sorted(root.glob("grids/*/cells.jsonl"))}
    if (Path(word) / "cells.jsonl").is_file():
        return Path(word)
    if word in folders:
        return folders[word]
    meant = called(word, folders)
    return folders[meant[0]] if len(meant) == 1 and len(called(word, run_names(root))) != 1 else None


def exit_file(folder: Path, number: int) -> Path:
    """Where the task of a cell notes its exit code."""
    return folder / TASKS / EXITS / f"{number:04d}"


def note_exit(folder: Path, number: int, code: int, log: str = "") -> None:
    """What the script of a task does itself (`grid.slurm_scripts`): leave its exit code, and the name of its log."""
    write_atomic(exit_file(folder, number), f"{code} {log}\n")


def failure(folder: Path, number: int) -> str:
    """Why the task of a cell failed, as its exit code and the end of its log say; "" where it has not."""
    try:
        word, _, log = exit_file(folder, number).read_bytes()[:1000].decode().strip().partition(" ")
        code = int(word)
    except (OSError, ValueError):  # no task, or one that was killed with its script
        return ""
    if code == 0 or code in AGAIN:
        return ""
    how = f"exit code {code}" if code < 128 else f"killed by signal {code - 128} (9 is often: out of memory)"
    path = folder / TASKS / LOGS / Path(log).name
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return f"its task ended with {how}"
    tail = [line for line in text.splitlines() if line][-_TAIL:]
    return "\n  ".join([f"its task ended with {how}; last lines of {path}:", *(tail or ["(nothing)"])])


def driven(folder: Path) -> bool:
    """Whether a live `ablate` holds the grid."""
    return holder(folder)[0]


def cells(folder: Path) -> list[CellView]:
    """The cells of a grid's folder. Raises `DamagedError` where its list of cells cannot be read."""
    path = folder / "cells.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [_look(folder, row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path}: not the cells of a grid ({error}). `ablate` writes it anew.") from None


def _look(folder: Path, row: dict[str, Any]) -> CellView:
    number, settings = int(row["cell"]), dict(row["settings"])
    run = folder.parents[1] / str(row["run"])
    label = " ".join(
        f"{key}={value if isinstance(value, str) else canonical_json(value)}" for key, value in settings.items()
    )
    if RunFolder(run).is_done:
        return CellView(number, label, run, DONE)
    holder = None
    if run.is_dir():
        with contextlib.suppress(OSError):
            holder = FolderLock(run).holder()
    if holder is not None:
        return CellView(number, label, run, RUNNING, f"{holder}{_at(run)}")
    if why := failure(folder, number) or (str(row.get("error", "")) if row.get("state") == FAILED else ""):
        return CellView(number, label, run, FAILED, why)
    return CellView(number, label, run, STOPPED if (run / "experiment.toml").exists() else WAITING)


def _at(run: Path) -> str:
    """The newest epoch that a run has told of."""
    epochs = [line.get("epoch") for line in progress_lines(run) if line.get("kind") == "epoch"]
    return f", epoch {epochs[-1]}" if epochs else ""
