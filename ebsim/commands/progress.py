"""What a training looks like on a terminal (stderr): a live line with the time left, or one plain line per epoch.

A pipe, a log file or a batch system gets plain lines without control characters.
"""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


def duration(seconds: float) -> str:
    """Seconds as 45 s, 3:07 min or 2:05 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    unit, big = (" min", 60) if seconds < 3600 else (" h", 3600)
    whole = int(seconds)
    return f"{whole // big}:{whole % big * 60 // big:02d}{unit}"


class Terminal:
    """A `training.Progress` that shows epochs as they end and, on a terminal, a bar for what is under way."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._bars: Progress | None = None
        self._first = self._last = 0
        self._began = 0.0
        self._notes: set[str] = set()

    def begin(self, stage: str, first: int, last: int) -> None:
        self._first, self._last, self._began = first, last, time.monotonic()
        self._say(f"{stage}: epochs {first} to {last}" + (" at most" if stage.startswith("dense") else ""))
        if self.console.is_terminal:
            self._bars = Progress(
                TextColumn("  {task.description}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TextColumn("{task.fields[left]}"),
                console=self.console,
                transient=True,
            )
            self._epochs = self._bars.add_task("epoch", total=last, completed=first - 1, left="")
            self._steps = self._bars.add_task("step ", total=None, left="")
            self._bars.start()

    def step(self, done: int, total: int) -> None:
        if self._bars is not None:
            self._bars.update(self._steps, completed=done, total=total)

    def epoch(self, stage: str, row: dict[str, Any]) -> None:
        done = row["epoch"] - self._first + 1
        left = (time.monotonic() - self._began) / done * (self._last - row["epoch"])
        test = f"  test {row['test_accuracy']:.4f}" if "test_accuracy" in row else ""
        self._say(
            f"  epoch {row['epoch']:>3}/{self._last}  loss {row['loss']:.4f}  train {row['accuracy']:.4f}{test}"
            f"  {row['seconds']:.1f} s  left {duration(left)}"
        )
        if self._bars is not None:
            self._bars.update(self._epochs, completed=row["epoch"], left=f"left {duration(left)}")

    def end(self, stage: str) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def note(self, text: str) -> None:
        if text not in self._notes:  # a wait repeats itself every second
            self._notes.add(text)
            self._say(f"  {text}")

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)


def print_table(caption: str, headings: list[str], rows: list[list[str]]) -> None:
    """A table of texts on stdout (see `display.terminal.print_rows`)."""
    from ebsim.report.display.terminal import print_rows

    print_rows(caption, headings, rows)
