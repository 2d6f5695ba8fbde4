"""Worker process of a grid: runs the cells it is given one by one, `python -m ebsim.grid.worker RUNS_DIR [strict]`.

A line of stdin is an experiment (JSON); lines of stdout tell how it goes and end with `done` or `failed`. Anything
else that is printed goes to stderr. When stdin ends, so does the process, at once and wherever it is: that is how it
never outlives its driver, on any system, and it loses nothing because every file of ours is whole or absent.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, TextIO

from ebsim import pipeline, stop
from ebsim.config import Experiment
from ebsim.errors import EbsimError


class Reporter:
    """A `training.Progress` that passes everything but single steps on to the driver."""

    def __init__(self, answers: TextIO) -> None:
        self._answers = answers

    def tell(self, kind: str, **fields: Any) -> None:
        self._answers.write(json.dumps({"kind": kind, **fields}) + "\n")
        self._answers.flush()

    def begin(self, stage: str, first: int, last: int) -> None:
        self.tell("begin", stage=stage, first=first, last=last)

    def step(self, done: int, total: int) -> None: ...

    def epoch(self, stage: str, row: dict[str, Any]) -> None:
        self.tell("epoch", stage=stage, epoch=row["epoch"], joules=row.get("joules"))

    def end(self, stage: str) -> None: ...

    def note(self, text: str) -> None:
        self.tell("note", text=text)

    def work(self, what: str, **facts: Any) -> None:
        self.tell(what, **facts)


def run_cell(text: str, runs_dir: Path, reporter: Reporter, *, strict: bool = False) -> None:
    """One cell, and the line that says how it ended; a bug of ours leaves its traceback in the worker's log."""
    try:
        run = pipeline.run_experiment(Experiment.model_validate_json(text), runs_dir, reporter, strict=strict)
        reporter.tell("done", run=run.path.name)
    except EbsimError as error:
        reporter.tell("failed", error=type(error).__name__, exit=error.exit_code, message=str(error))
    except Exception as error:
        traceback.print_exc()
        reporter.tell("failed", error=type(error).__name__, exit=1, message=str(error))


def main(runs_dir: str, *words: str) -> None:
    for name in stop.SIGNALS:  # sent to a whole process group, they are the driver's business
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            jobs.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        run_cell(jobs.get(), Path(runs_dir), Reporter(answers), strict="strict" in words)


if __name__ == "__main__":
    main(*sys.argv[1:])
