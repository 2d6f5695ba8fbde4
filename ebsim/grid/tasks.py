"""A grid as tasks for a batch system: the shared dense trainings first, then the cells that start from them.

A task is a plain command: `run CELL.toml --search-only` for a search, `run CELL.toml` for a cell, and `ablate grid.toml
--collect` for the table. How a cell's task ended is written into a small file, so that whoever looks at the grid's
folder knows it, from any machine that sees the folder.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ebsim.config import Cluster
from ebsim.config.write import to_toml
from ebsim.files import make_folder, remove, write_atomic
from ebsim.grid.scheduler import prepared, shared
from ebsim.grid.state import PENDING, GridState
from ebsim.runs.grid_folder import EXITS, LOGS, TASKS, exit_file


@dataclass(frozen=True)
class Tasks:
    """What is to be submitted: numbers of the cells whose searches go first, and of all cells with the searches (by
    the number of their cell) that each has to wait for."""

    searches: tuple[int, ...]
    cells: dict[int, frozenset[int]]

    def groups(self) -> list[tuple[frozenset[int], list[int]]]:
        """The cells that wait for the same searches, together: an array has one dependency."""
        found: dict[frozenset[int], list[int]] = {}
        for number, needed in self.cells.items():
            found.setdefault(needed, []).append(number)
        return list(found.items())


def tasks(pending: Collection[int], trainings: Mapping[int, Collection[str]]) -> Tasks:
    """Searches and cells of a grid. trainings: cell -> its dense trainings; those of two cells or more are shared.

    The first cell that needs a shared training stands for it; a cell may stand for several.
    """
    users = Counter(training for number in pending for training in trainings.get(number, ()))
    first: dict[str, int] = {}
    for number in sorted(pending):
        for training in trainings.get(number, ()):
            if users[training] > 1:
                first.setdefault(training, number)
    cells = {
        number: frozenset(first[training] for training in trainings.get(number, ()) if training in first)
        for number in sorted(pending)
    }
    return Tasks(tuple(sorted(set(first.values()))), cells)


def program() -> list[str]:
    """What a person would type for `cli.py`, from any folder: this Python with the checkout's cli.py, or `ebsim`."""
    checkout = Path(__file__).parents[2] / "cli.py"
    installed = Path(sys.executable).with_name("ebsim")
    return [sys.executable, str(checkout)] if checkout.exists() or not installed.exists() else [str(installed)]


def table_command(folder: Path, runs_dir: str, options: Sequence[str]) -> list[str]:
    """The command of the last task: the grid's table, from whatever cells are done."""
    return [*program(), "ablate", str(folder / "grid.toml"), "--collect", "--runs-dir", runs_dir, *options]


def cell_file(folder: Path, number: int) -> Path:
    """The experiment of a cell, as its task runs it."""
    return folder / TASKS / "cells" / f"{number:04d}.toml"


def threads(grid_state: GridState) -> int:
    """CPU threads of every cell, as in a grid on this machine (`scheduler`)."""
    return grid_state.grid.cells[0].experiment.train.threads or 1


def processes(grid_state: GridState) -> int:
    """Processes that one task starts (`train.devices`), the most of all cells."""
    return max(cell.experiment.train.devices for cell in grid_state.grid.cells)


def write_cells(grid_state: GridState) -> None:
    """The experiments of the pending cells, and an empty place for logs and exit codes."""
    companions = shared(grid_state.grid)
    for part in (LOGS, EXITS):
        make_folder(grid_state.folder / TASKS / part)
    for cell in grid_state.cells(PENDING):
        own = prepared(cell.experiment, companions, threads(grid_state)).model_copy(update={"cluster": Cluster()})
        write_atomic(cell_file(grid_state.folder, cell.number), to_toml(own))
        record = exit_file(grid_state.folder, cell.number)
        if os.path.lexists(record):
            remove(record)
