"""Worker processes of a grid: started when needed, given one cell at a time, ended with the driver.

Every message of every worker arrives in one queue. A worker that failed a cell is not used again, so that a broken
state (a GPU that ran out of memory, say) spoils no other cell.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebsim.config import Experiment
from ebsim.files import make_folder
from ebsim.grid.expand import Cell

Message = dict[str, Any]
_TAIL = 8


@dataclass(eq=False)
class Worker:
    """A live process; `cell` is what it is running, None when idle."""

    number: int
    process: subprocess.Popen[str]
    log: Path
    cell: Cell | None = None


class Pool:
    """At most `size` workers with `threads` CPU threads each; use as a context, which ends them all."""

    def __init__(self, size: int, threads: int, runs_dir: Path, logs: Path, *, strict: bool = False) -> None:
        self.messages: queue.Queue[tuple[Worker, Message]] = queue.Queue()
        self._size, self._threads, self._runs_dir, self._logs = size, threads, runs_dir, logs
        self._strict = ["strict"] if strict else []
        self._workers: dict[int, Worker] = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in list(self._workers.values()):
            self._end(worker)

    @property
    def running(self) -> list[Cell]:
        return [worker.cell for worker in self._workers.values() if worker.cell is not None]

    @property
    def full(self) -> bool:
        return len(self.running) >= self._size

    def start(self, cell: Cell, experiment: Experiment) -> Worker:
        """Hand a cell to an idle worker, or to a new one."""
        idle = (worker for worker in self._workers.values() if worker.cell is None)
        worker = next(idle, None) or self._new()
        worker.cell = cell
        assert worker.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has just died; its end of file says so
            worker.process.stdin.write(experiment.model_dump_json() + "\n")
            worker.process.stdin.flush()
        return worker

    def free(self, worker: Worker, *, reuse: bool) -> None:
        """A worker's cell is over."""
        worker.cell = None
        if not reuse:
            self._end(worker)

    def _new(self) -> Worker:
        number = next(n for n in range(1, self._size + 1) if n not in self._workers)
        make_folder(self._logs)
        log = self._logs / f"worker-{number}.log"
        home = str(Path(__file__).parents[2])  # the worker imports the same ebsim as its driver
        # An empty entry, and without -P the first one, would be the working directory: whatever lies there would run.
        paths = [home, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": str(self._threads),
        }
        with log.open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ebsim.grid.worker", str(self._runs_dir), *self._strict],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                env=environment, text=True, encoding="utf-8",
            )  # fmt: skip
        worker = self._workers[number] = Worker(number, process, log)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
        return worker

    def _listen(self, worker: Worker) -> None:
        """Pass a worker's lines on; its end, however it came, is a message too."""
        assert worker.process.stdout is not None
        with worker.process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError):  # a line cut short by the process's end
                    self.messages.put((worker, json.loads(line)))
        self.messages.put((worker, {"kind": "gone", "message": _exit_reason(worker)}))

    def _end(self, worker: Worker) -> None:
        if self._workers.get(worker.number) is worker:  # a killed one is heard of again, when its pipe ends
            del self._workers[worker.number]
        worker.process.kill()
        worker.process.wait()
        if worker.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # what it was told and did not read any more
                worker.process.stdin.close()


def _exit_reason(worker: Worker) -> str:
    """What is known of a process that ended without an answer."""
    code = worker.process.wait()
    how = f"was killed by signal {-code} (9 is often: out of memory)" if code < 0 else f"ended with exit code {code}"
    tail = worker.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:]
    return "\n  ".join([f"its process {how}; last lines of {worker.log}:", *(tail or ["(nothing)"])])
