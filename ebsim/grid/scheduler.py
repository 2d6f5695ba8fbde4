"""Schedules the cells of a grid over worker processes; resumable after a kill at any time.

A cell is an ordinary run in its own folder. Cells that are done are skipped after their files were checked; cells
that need the same training find it in the store of stages, where one trains and the others wait. Two cells that
would wait for each other's training are not started together while there is something else to start.

Threads: every cell runs with `train.threads` CPU threads, or with one if that is not set. Bits depend on the thread
count, so it must depend on nothing else: not on `--workers`, not on the machine.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ebsim.config import Companion, Experiment
from ebsim.errors import BusyError
from ebsim.files import canonical_json
from ebsim.grid.expand import Cell, Grid
from ebsim.grid.pool import Message, Pool, Worker
from ebsim.grid.state import DONE, FAILED, PENDING, GridState
from ebsim.runs.store import exclusive

POLL = 0.5  # seconds between two looks at whether a stop was asked for
BUSY_PAUSE = 2.0  # seconds until a run that another process holds is tried again


class GridObserver(Protocol):
    """Interface to which a running grid reports its progress; implementations only display it."""

    def started(self, cell: Cell, grid_state: GridState) -> None: ...

    def heard(self, cell: Cell, message: Message) -> None: ...

    def ended(self, cell: Cell, grid_state: GridState) -> None: ...


class SilentObserver:
    """Shows nothing."""

    def started(self, cell: Cell, grid_state: GridState) -> None: ...

    def heard(self, cell: Cell, message: Message) -> None: ...

    def ended(self, cell: Cell, grid_state: GridState) -> None: ...


def run_cells(
    grid_state: GridState,
    runs_dir: Path,
    *,
    workers: int = 1,
    watch: GridObserver | None = None,
    check: Callable[[], None] = lambda: None,
    strict: bool = False,
) -> GridState:
    """Run every pending cell of a grid (see `state.find_states`); a failure is noted and stops no other cell.

    `check` is called about twice a second and may raise, to stop. strict: refuse stages that were trained under other
    conditions (see `pipeline.run`). `BusyError` if another driver runs this grid.
    """
    watch = watch or SilentObserver()
    threads = grid_state.grid.cells[0].experiment.train.threads or 1
    companions = shared(grid_state.grid)
    logs = grid_state.folder / "logs"
    with exclusive(grid_state.folder), Pool(workers, threads, runs_dir, logs, strict=strict) as pool:
        grid_state.open()
        waiting = grid_state.cells(PENDING)
        paused: dict[int, float] = {}  # cell number -> not before this moment
        while waiting or pool.running:
            while not pool.full and (cell := _next(waiting, pool.running, paused)) is not None:
                waiting.remove(cell)
                pool.start(cell, prepared(cell.experiment, companions, threads))
                watch.started(cell, grid_state)
            check()
            try:
                worker, message = pool.messages.get(timeout=POLL)
            except queue.Empty:
                continue
            cell_back = _hear(worker, message, grid_state, pool, watch)
            if cell_back is not None:
                waiting.append(cell_back)
                paused[cell_back.number] = time.monotonic() + BUSY_PAUSE
    return grid_state


def shared(grid: Grid) -> tuple[Companion, ...]:
    """What the cells together ask of a dense training: its states at these epochs and draws are kept for all."""
    asked = {
        canonical_json({"epochs": own.train.epochs, **own.prune.identity()}): Companion(
            epochs=own.train.epochs, prune=own.prune
        )
        for own in (cell.experiment for cell in grid.cells)
    }
    return tuple(asked.values())


def prepared(experiment: Experiment, companions: tuple[Companion, ...], threads: int) -> Experiment:
    """The cell's experiment with its thread count and the states that other cells need; its identity stays the same."""
    train = experiment.train.model_copy(update={"threads": threads})
    return experiment.model_copy(update={"train": train, "companions": companions})


def _hear(worker: Worker, message: Message, grid_state: GridState, pool: Pool, watch: GridObserver) -> Cell | None:
    """Act on a worker's message; returns its cell if that has to be started again later."""
    cell, kind = worker.cell, message["kind"]
    if cell is None:  # an idle worker has ended
        pool.free(worker, reuse=False)
        return None
    if kind not in ("done", "failed", "gone"):
        watch.heard(cell, message)
        return None
    pool.free(worker, reuse=kind == "done")
    if message.get("exit") == BusyError.exit_code:
        watch.heard(cell, {"kind": "note", "text": message["message"]})
        return cell
    grid_state.set(cell, DONE if kind == "done" else FAILED, "" if kind == "done" else _reason(message, worker))
    watch.ended(cell, grid_state)
    return None


def _reason(message: Message, worker: Worker) -> str:
    """Why a cell failed, in words; a bug's traceback is in the worker's log."""
    where = f" (a bug of ours; traceback in {worker.log})" if message.get("exit") == 1 else ""
    return (f"{message['error']}: " if "error" in message else "") + message["message"] + where


def _next(waiting: list[Cell], running: list[Cell], paused: dict[int, float]) -> Cell | None:
    """The first waiting cell that shares no training with a running one; else the first; None if all must pause."""
    now = time.monotonic()
    ready = [cell for cell in waiting if paused.get(cell.number, 0.0) <= now]
    busy = {_family(cell.experiment) for cell in running}
    return next((cell for cell in ready if _family(cell.experiment) not in busy), next(iter(ready), None))


def _family(experiment: Experiment) -> str:
    """What two cells must agree in to share a dense training, whatever its precision."""
    own = experiment.identity()
    train: dict[str, Any] = {key: value for key, value in own["train"].items() if key != "epochs"}
    return canonical_json([own["data"], own["model"], train, own["seed"]])
