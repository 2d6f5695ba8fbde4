"""The interface through which a training reports its progress; `Silent` ignores everything."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from ebsim.files import append_line, canonical_json


class Progress(Protocol):
    """Called by a trajectory. Implementations only show; they never change what is computed."""

    def begin(self, stage: str, first: int, last: int) -> None:
        """Epochs `first`..`last` of `stage` are about to be trained (a search may end earlier)."""

    def step(self, done: int, total: int) -> None:
        """`done` of `total` steps of the current epoch are over."""

    def epoch(self, stage: str, row: dict[str, Any]) -> None:
        """An epoch is over and its checkpoint written; `row` is its line of the curve, with `joules` where it is known
        what the row of the results has taken so far (modelled)."""

    def end(self, stage: str) -> None:
        """No more epochs of this stage for now."""

    def note(self, text: str) -> None:
        """Something worth a line: a reused stage, a damaged checkpoint that was passed over."""

    def work(self, what: str, **facts: Any) -> None:
        """What the experiment does, beyond epochs; facts are plain JSON.

        task: the next row of the results (method, ratio or None, number of total, epochs = N of a full training,
        stages = its trainings by name). mask: drawn after an epoch (ratio, epoch, distance to the one before, largest =
        what the rule compares with threshold, window, emerged). result: a row is finished (label, ratio, accuracy,
        epoch_drawn, joules modelled, hardware).
        """


class Silent:
    """Shows nothing."""

    def begin(self, stage: str, first: int, last: int) -> None: ...

    def step(self, done: int, total: int) -> None: ...

    def epoch(self, stage: str, row: dict[str, Any]) -> None: ...

    def end(self, stage: str) -> None: ...

    def note(self, text: str) -> None: ...

    def work(self, what: str, **facts: Any) -> None: ...


def part_of(stage: str, stages: Sequence[str]) -> str:
    """Which training of a row a stage of the store is: "retrain, stage 2 of 2"; its id where that is not known."""
    if not stages:
        return stage
    number = 1 if stage.startswith("dense-") else len(stages)
    return stages[number - 1] + (f", stage {number} of {len(stages)}" if len(stages) > 1 else "")


class Recorded:
    """Passes everything on, and keeps all but single steps as lines of a file that others can follow."""

    def __init__(self, inner: Progress, path: Path) -> None:
        self._inner, self._path = inner, path
        self._stages: Sequence[str] = ()

    def _keep(self, kind: str, **facts: Any) -> None:
        append_line(self._path, canonical_json({"kind": kind, "time": round(time.time(), 3), **facts}))

    def begin(self, stage: str, first: int, last: int) -> None:
        self._inner.begin(stage, first, last)
        self._keep("begin", stage=stage, first=first, last=last, part=part_of(stage, self._stages))

    def step(self, done: int, total: int) -> None:
        self._inner.step(done, total)

    def epoch(self, stage: str, row: dict[str, Any]) -> None:
        self._inner.epoch(stage, row)
        keys = ("epoch", "loss", "accuracy", "test_accuracy", "seconds", "joules")
        shown = {key: row[key] for key in keys if key in row}
        self._keep("epoch", stage=stage, **shown)

    def end(self, stage: str) -> None:
        self._inner.end(stage)

    def note(self, text: str) -> None:
        self._inner.note(text)
        self._keep("note", text=text)

    def work(self, what: str, **facts: Any) -> None:
        if what == "task":
            self._stages = facts["stages"]
        self._inner.work(what, **facts)
        self._keep(what, **facts)
