"""Grids of experiments: cells that are ordinary runs, in worker processes, ending in one table (docs/ablate.md).

expand: axes -> checked cells. state: where each cell stands. dry_run, plan, run_plan: what it will cost. scheduler,
pool, worker: running it here. tasks, slurm_scripts, slurm, submitit_tasks: running it on a cluster. results: its table
and figures. epoch_count: that nothing was trained twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ebsim import config, pipeline
from ebsim.errors import CellsFailedError
from ebsim.files import read_json
from ebsim.grid import results, scheduler
from ebsim.grid.epoch_count import EpochCount, count
from ebsim.grid.expand import expand
from ebsim.grid.plan import GridPlan, draw_up, lines
from ebsim.grid.state import DONE, FAILED, GridState, find_states, locate
from ebsim.report import Table
from ebsim.report.comparison.aggregate import Baseline, check_baseline
from ebsim.runs.store import exclusive

__all__ = [
    "EpochCount",
    "GridPlan",
    "GridState",
    "Table",
    "ablate",
    "as_json",
    "check_against",
    "collect",
    "counted",
    "draw_up",
    "lines",
    "open_grid",
    "parse_baseline",
    "raise_if_failed",
]


def open_grid(
    path: str | Path,
    axes: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    *,
    runs_dir: str | Path = "runs",
    retry_failed: bool = False,
) -> GridState:
    """The cells of an experiment file with a grid, all checked, and where each stands. Nothing is run.

    axes: `["seed=0..4", "precision.search=fp32,fp8"]`, over the file's own `[grid]`. Raises `ConfigError`, `DataError`.
    """
    grid = expand(path, axes, overrides, pipeline.choices(), pipeline.CROSS_CHECKS)
    return find_states(locate(grid, Path(runs_dir)), retry_failed)


def ablate(
    grid_state: GridState,
    *,
    runs_dir: str | Path = "runs",
    workers: int = 1,
    baseline: Baseline = "dense",
    watch: scheduler.GridObserver | None = None,
    check: Callable[[], None] = lambda: None,
    strict: bool = False,
    for_paper: bool = False,
) -> Table | None:
    """Run what is left of a grid and write its table and figures; returns the table (None if no cell is done).

    for_paper: each figure as PDF and PGF too. Failed cells are noted; `check` may raise, to stop (see
    `scheduler.run_cells`). Raises `ConfigError` for a baseline that is not in the grid, before anything runs.
    """
    check_against(grid_state, baseline)
    scheduler.run_cells(grid_state, Path(runs_dir), workers=workers, watch=watch, check=check, strict=strict)
    return results.finish(grid_state, baseline, for_paper=for_paper)


def check_against(grid_state: GridState, baseline: Baseline) -> None:
    """`ConfigError` for a baseline that is not in the grid."""
    methods = (method for cell in grid_state.grid.cells for method in cell.experiment.methods)
    check_baseline(baseline, methods, {key: own for key, own in grid_state.grid.axes.items() if key != results.SEED})


def collect(grid_state: GridState, baseline: Baseline = "dense") -> Table | None:
    """Write the table and figures of the cells that are done, and note what failed; nothing is run.

    Raises `BusyError` while another driver runs this grid, `ConfigError` for a baseline that is not in it.
    """
    check_against(grid_state, baseline)
    with exclusive(grid_state.folder):
        grid_state.open()
        return results.finish(grid_state, baseline)


def counted(grid_state: GridState, runs_dir: str | Path = "runs") -> EpochCount:
    """Epochs really trained for the finished cells, against the distinct ones (see `count.count`)."""
    return count((grid_state.runs[cell.number] for cell in grid_state.cells(DONE)), Path(runs_dir) / "stages")


def as_json(grid_state: GridState, plan: GridPlan, runs_dir: str | Path = "runs") -> dict[str, Any]:
    """A finished grid as one object: where it is, its plan, cells, counted epochs and the lines of its table."""
    table = grid_state.folder / "table.json"
    return {
        "schema": 1,
        "grid": str(grid_state.folder),
        "plan": plan.as_json(),
        "cells": grid_state.records(),
        "epochs": asdict(counted(grid_state, runs_dir)),
        "lines": read_json(table) if table.exists() else [],
    }


def parse_baseline(words: Sequence[str]) -> Baseline:
    """`["dense"]` is a method; `["precision.search=fp32", "prune.ratio=0.5"]` are values of axes."""
    if len(words) == 1 and "=" not in words[0]:
        return words[0]
    return config.parse_settings(list(words)) if words else "dense"


def raise_if_failed(grid_state: GridState) -> None:
    """`CellsFailedError` that lists the failed cells."""
    failed = grid_state.cells(FAILED)
    if failed:
        told = [
            f"cell {cell.number} ({cell.label}): {grid_state.errors[cell.number].splitlines()[0]}" for cell in failed
        ]
        cells = len(grid_state.grid.cells)
        what = f"{len(failed)} of {cells} cells failed; run the same command with --retry-failed to try"
        raise CellsFailedError("\n".join([*told, f"{what} them again."]))
