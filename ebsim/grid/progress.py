"""Progress of a grid on stderr: a line when a cell starts and ends, failures at once and in full."""

from __future__ import annotations

import time

from rich.console import Console

from ebsim.grid.expand import Cell
from ebsim.grid.pool import Message
from ebsim.grid.state import DONE, FAILED, PENDING, GridState
from ebsim.report.display.text import plain
from ebsim.report.display.value import duration, quantity


class GridProgress:
    """A `GridObserver`: plain lines on stderr, and on a terminal a last one with what is being trained in each cell."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._began = time.monotonic()
        self._starts: dict[int, float] = {}
        self._ended = 0
        self._rows: dict[int, str] = {}  # cell -> the row of its results that it is at
        self._at: dict[int, str] = {}
        self._spent: dict[int, float] = {}  # cell -> modelled joules of the row under way
        self._joules = 0.0
        self._status = self.console.status("") if self.console.is_terminal else None

    def started(self, cell: Cell, grid_state: GridState) -> None:
        self._starts[cell.number] = time.monotonic()
        self._say(f"cell {cell.number}/{len(grid_state.grid.cells)}  {cell.label}  started")
        if self._status is not None:
            self._status.start()

    def heard(self, cell: Cell, message: Message) -> None:
        if message["kind"] == "note":
            self._say(f"cell {cell.number}: {message['text']}")
        elif message["kind"] == "task":
            ratio = "" if message["ratio"] is None else f" p = {message['ratio']:g}"
            self._rows[cell.number] = f"[{message['number']}/{message['total']}] {message['method']}{ratio}"
        elif message["kind"] == "result":
            self._joules += message["joules"]
            self._spent.pop(cell.number, None)
        elif message["kind"] == "epoch":
            row = self._rows.get(cell.number, message["stage"])
            joules = self._spent[cell.number] = message.get("joules") or 0.0
            so_far = f", {quantity(joules, 'J')}" if joules else ""
            self._at[cell.number] = f"cell {cell.number}: {row}, epoch {message['epoch']}{so_far}"
            if self._status is not None:
                self._status.update(plain("   ".join(self._at.values())))

    def ended(self, cell: Cell, grid_state: GridState) -> None:
        self._ended += 1
        self._at.pop(cell.number, None)
        self._spent.pop(cell.number, None)
        now = time.monotonic()
        left = len(grid_state.cells(PENDING))
        counts = f"{len(grid_state.cells(DONE))} done, {len(grid_state.cells(FAILED))} failed, {left} to go"
        remaining = f", about {duration((now - self._began) / self._ended * left)}" if left else ""
        if joules := self._joules + sum(self._spent.values()):
            remaining += f"; {quantity(joules, 'J')} modelled so far"
        took = duration(now - self._starts[cell.number])
        failed = grid_state.states[cell.number] == FAILED
        how = f"FAILED after {took}" if failed else f"done in {took}"
        self._say(f"cell {cell.number}/{len(grid_state.grid.cells)}  {cell.label}  {how}  [{counts}{remaining}]")
        if failed:
            for line in grid_state.errors[cell.number].splitlines():
                self._say(f"    {line}")
        if not left and self._status is not None:
            self._status.stop()

    def _say(self, text: str) -> None:
        self.console.print(plain(text), markup=False, soft_wrap=True)
