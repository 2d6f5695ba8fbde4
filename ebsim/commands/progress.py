"""Progress of a run on stderr: plain lines, and on a terminal a live bar with the remaining time.

A pipe, a log file or a batch system gets the lines alone, without control characters. The same lines can be followed
from another terminal (`runs watch`): `event_line` makes them of what a run keeps in its folder.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ebsim.report.display.value import duration, quantity


def at_ratio(ratio: float | None) -> str:
    """ " p = 0.5", or nothing."""
    return "" if ratio is None else f" p = {ratio:g}"


def event_line(event: dict[str, Any]) -> str:
    """The line of one event that a run has kept; "" for those that need none."""
    if event["kind"] == "task":
        return f"[{event['number']}/{event['total']}] {event['method']}{at_ratio(event['ratio'])}"
    if event["kind"] == "begin":
        part = event.get("part", event["stage"])
        most = " at most" if part.startswith("search") else ""
        return f"  {part}: epochs {event['first']} to {event['last']}{most}"
    if event["kind"] == "epoch":
        test = f"  test {event['test_accuracy']:.4f}" if "test_accuracy" in event else ""
        return (
            f"  epoch {event['epoch']:>3}  loss {event['loss']:.4f}  train {event['accuracy']:.4f}{test}"
            f"  {event['seconds']:.1f} s{_so_far(event)}"
        )
    if event["kind"] == "mask":
        if event["emerged"]:
            return f"  ticket{at_ratio(event['ratio'])} emerged at epoch {event['epoch']}{_why(event)}"
        largest = "" if event["largest"] is None else f", largest of the window {event['largest']:.3f}"
        threshold = f" (threshold {event['threshold']:g})"
        return f"  mask{at_ratio(event['ratio'])}: distance {event['distance']:.3f}{largest}{threshold}"
    if event["kind"] == "result":
        accuracy = "no ticket" if event["accuracy"] is None else f"{100 * event['accuracy']:.2f} % test accuracy"
        joules = f"{quantity(event['joules'], 'J')} modelled on {event['hardware']}"
        return f"  {event['label']}{at_ratio(event['ratio'])}: {accuracy}, {joules}"
    return f"  {event['text']}" if event["kind"] == "note" else ""


def _so_far(event: dict[str, Any]) -> str:
    """The row's modelled energy up to an epoch, where it is known."""
    joules = event.get("joules")
    return "" if joules is None else f"  {quantity(joules, 'J')} so far"


def _why(event: dict[str, Any]) -> str:
    """What the rule saw; lines of older runs do not have it."""
    if event.get("rule") is None or event["largest"] is None:
        return ""
    over = f"over {event['window']} epochs" if event["rule"] == "paper" else "to the masks before it"
    sign = "<" if event["rule"] == "paper" else "<="
    return f" (mask distance {event['largest']:.3f} {sign} {event['threshold']:g} {over})"


class RemainingTime:
    """How long the rest of an experiment will take: seconds of an epoch so far, times the epochs that are left.

    The current training is known; a later row is taken to train as many epochs as rows of its method did before, or a
    full training where there was none. It says "about" and improves as rows finish.
    """

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._epochs = self._rows_left = self._full = 0
        self._of_rows: list[int] = []
        self._in_row = 0

    def task(self, number: int, total: int, epochs: int) -> None:
        if self._in_row:
            self._of_rows.append(self._in_row)
        self._rows_left, self._full, self._in_row = total - number, epochs, 0

    def epoch(self, seconds: float) -> None:
        self._seconds.append(seconds)
        self._in_row += 1

    def left(self, stage_left: int) -> float:
        """Seconds until the whole is done; stage_left: epochs that the current training still has."""
        recent = self._seconds[-20:]
        later = self._of_rows[1:] or [self._full]  # the first row is mostly the dense network's
        epochs = stage_left + self._rows_left * sum(later) / len(later)
        return epochs * sum(recent) / len(recent) if recent else 0.0


class TerminalProgress:
    """A `training.Progress` that shows what the experiment does and, on a terminal, a bar for what is under way."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._bars: Progress | None = None
        self._last = 0
        self._outlook = RemainingTime()
        self._said: set[str] = set()
        self._stages: list[str] = []

    def begin(self, stage: str, first: int, last: int) -> None:
        from ebsim.training.progress import part_of  # with torch, which is there by now

        self._last = last
        part = part_of(stage, self._stages)
        self._say(event_line({"kind": "begin", "stage": stage, "first": first, "last": last, "part": part}))
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
        self._outlook.epoch(row["seconds"])
        left = f"about {duration(self._outlook.left(self._last - row['epoch']))} left"
        line = event_line({"kind": "epoch", **row}).replace(f"{row['epoch']:>3}", f"{row['epoch']:>3}/{self._last}", 1)
        self._say(f"{line}  {left}")
        if self._bars is not None:
            self._bars.update(self._epochs, completed=row["epoch"], left=left)

    def end(self, stage: str) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def note(self, text: str) -> None:
        if text not in self._said:  # a wait repeats itself every second
            self._said.add(text)
            self._say(f"  {text}")

    def work(self, what: str, **facts: Any) -> None:
        if what == "task":
            self._outlook.task(facts["number"], facts["total"], facts["epochs"])
            self._stages = facts["stages"]
        line = event_line({"kind": what, **facts})
        if what != "mask" or line not in self._said:  # a ratio's emergence is found again by every method that uses it
            self._said.add(line)
            self._say(line)

    def _say(self, text: str) -> None:
        if text:
            self.console.print(text, markup=False, soft_wrap=True)
