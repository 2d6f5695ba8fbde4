"""The state of a grid's cells, read from files: done, failed, or still to run.

Done is what the run folder's own manifest says, checked file by file. Failures are remembered in the grid folder's
`cells.jsonl`, which is written anew at every change, so a driver that is killed at any moment loses nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ebsim import pipeline
from ebsim.config.write import to_toml
from ebsim.errors import DamagedError
from ebsim.files import canonical_json, digest, write_atomic
from ebsim.grid.expand import Cell, Grid
from ebsim.pricing import profile, reprice
from ebsim.runs.grid_folder import failure
from ebsim.runs.run_folder import RunFolder

DONE, FAILED, PENDING = "done", "failed", "pending"


@dataclass
class GridState:
    """A grid's cells by number: their run folders, states and, where one failed, why."""

    grid: Grid
    folder: Path
    runs: dict[int, Path]
    states: dict[int, str] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    changed: list[Path] = field(default_factory=list)
    """Finished runs that are to be made anew, because their files do not match their manifest."""
    stale: set[int] = field(default_factory=set)
    """Cells whose finished run is only to be priced again, because its accelerator profile has changed."""

    def open(self) -> None:
        """Write `grid.toml` (the grid as one could run it again), and let changed runs count as unfinished."""
        base = self.grid.cells[0].experiment.model_copy(update={"grid": self.grid.axes})
        write_atomic(self.folder / "grid.toml", to_toml(base))
        for run in self.changed:
            folder = RunFolder(run)
            folder.manifest.replace(folder.manifest.with_name(f"{folder.manifest.name}.damaged"))
        self.changed.clear()
        self._write()

    def cells(self, state: str) -> list[Cell]:
        return [cell for cell in self.grid.cells if self.states[cell.number] == state]

    def set(self, cell: Cell, state: str, error: str = "") -> None:
        """Note a cell's new state, on disk too."""
        self.states[cell.number] = state
        self.errors.pop(cell.number, None)
        if error:
            self.errors[cell.number] = error
        self._write()

    def _write(self) -> None:
        lines = "".join(canonical_json(line) + "\n" for line in self.records())
        write_atomic(self.folder / "cells.jsonl", lines)

    def records(self) -> list[dict[str, Any]]:
        """One plain object per cell: what `cells.jsonl` says of it."""
        return [self._line(cell) for cell in self.grid.cells]

    def _line(self, cell: Cell) -> dict[str, Any]:
        line = {
            "cell": cell.number,
            "settings": cell.settings,
            "run": self.runs[cell.number].name,
            "state": self.states[cell.number],
        }
        return line | ({"error": self.errors[cell.number]} if cell.number in self.errors else {})


def locate(grid: Grid, runs_dir: Path) -> GridState:
    """Where every cell and the grid itself live. Reads each dataset once; raises `DataError` if one is missing."""
    digests: dict[str, str] = {}
    runs = {}
    for cell in grid.cells:
        key = cell.experiment.data.model_dump_json()
        if key not in digests:
            digests[key] = pipeline.load_data(cell.experiment).digest
        runs[cell.number] = pipeline.run_folder(cell.experiment, runs_dir, digests[key])
    own = digest([path.name for path in runs.values()])[:8]
    return GridState(grid, runs_dir / "grids" / f"{grid.name}-{own}", runs)


def find_states(grid_state: GridState, retry_failed: bool = False) -> GridState:
    """Find every cell's state. A finished run that was changed since counts as failed, one that was priced on another
    version of its accelerator profile as still to run.

    With `retry_failed`, what failed is to run again; the files of a changed run are then made anew from the store.
    """
    before = _remembered(grid_state.folder / "cells.jsonl")
    profiles = {cell.experiment.hardware.profile for cell in grid_state.grid.cells}
    digests = {name: profile.read(name).digest for name in profiles}
    for cell in grid_state.grid.cells:
        run, number = grid_state.runs[cell.number], cell.number
        grid_state.states[number] = PENDING
        folder = RunFolder(run)
        if folder.is_done:
            try:
                folder.verify()
                if reprice.stored_pricing_key(folder) == reprice.pricing_key(digests[cell.experiment.hardware.profile]):
                    grid_state.states[number] = DONE
                else:
                    grid_state.stale.add(number)
            except DamagedError as error:
                if retry_failed:
                    grid_state.changed.append(run)
                else:
                    grid_state.states[number], grid_state.errors[number] = FAILED, str(error)
        elif not retry_failed and (why := before.get(run.name) or failure(grid_state.folder, number)):
            grid_state.states[number], grid_state.errors[number] = FAILED, why
    return grid_state


def _remembered(path: Path) -> Mapping[str, str]:
    """Run name -> why its cell failed, as an earlier driver noted it."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {line["run"]: line["error"] for line in lines if line["state"] == FAILED}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path}: not the cells of a grid ({error}). Delete it; the runs are safe.") from None
