"""The experiments of experiments/results/ on a GPU, for benchmarks/gpu.py: several worker processes share the device.

Small networks leave a GPU idle between their kernels, so that many trainings at once finish sooner than one after the
other. The jobs start in order of their value, as workers become free; what is unfinished when the time is up stays in
the store of stages and goes on from its last epoch in the next call. Every job is an ordinary grid: the same command
line runs it on a CPU.
"""

from __future__ import annotations

import tarfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ebsim import grid
from ebsim.errors import EbsimError, StoppedError
from ebsim.grid import results as grid_results
from ebsim.grid.progress import GridProgress

ROOT = Path(__file__).parents[1]
SKIPPED = ("report.html", "figures")  # of a run folder in the archive: `ebsim report FOLDER` makes them again


@dataclass(frozen=True)
class Job:
    """A grid to run: its file below experiments/, and what is laid over it."""

    name: str
    file: str
    workers: int
    settings: dict[str, Any] = field(default_factory=dict)
    axes: tuple[str, ...] = ()


def jobs(quick: bool) -> list[Job]:
    """What is trained, most valuable first."""
    if quick:
        tiny = {"train.epochs": 2, "train.milestones": [1], "data.subset": 60, "model.depth": 11, "train.eval_every": 2}
        draws = {**tiny, "prune.draw_epochs": [0, 2], "prune.ratio": 0.5, "methods": ["dense", "prune-at-epoch"]}
        return [Job("draw-epoch", "results/draw-epoch.toml", 1, draws, ("seed=1..1", "prune.ratio=0.5"))]
    full = {"prune.ratio": [0.3, 0.5, 0.7]}
    main = {"methods": ["dense", "eb-train"], "data.name": "imagefolder", "train.amp": "bf16", **full}
    short = {**main, "train.epochs": 24, "train.milestones": [12, 18], "train.eval_every": 24}
    settling = ("seed=1..3", "prune.ratio=[0.3,0.5,0.7]")
    paper = "paper/table2-preresnet101-cifar10.toml"
    return [
        Job("draw-epoch", "results/draw-epoch.toml", 6),
        Job("table2", "results/table2.toml", 9),
        Job("full-size", "cifar10-short.toml", 3, full, ("seed=1..3",)),
        Job("learning-rate", "results/learning-rate.toml", 6),
        Job("mask-maps", "results/mask-maps.toml", 3),
        Job("low-precision-search", "results/low-precision-search.toml", 6),
        Job("main-short", paper, 3, short, ("seed=1..3",)),
        Job("main", paper, 3, {**main, "train.eval_every": 10}, ("seed=1..3",)),
        Job("settling", "results/draw-epoch.toml", 3, {"methods": ["dense"]}, settling),
    ]


class Runner:
    """Runs jobs until `deadline` (a `time.monotonic` moment), at most `slots` workers at a time."""

    def __init__(self, data: Path, runs_dir: Path, device: str, slots: int, deadline: float) -> None:
        self.data, self.runs_dir, self.device = data, runs_dir, device
        self.deadline, self._free = deadline, slots
        self._changed = threading.Condition()
        self.log: dict[str, dict[str, Any]] = {}

    def run(self, every: Iterable[Job], finished: Callable[[str, dict[str, Any]], None]) -> None:
        """Run the jobs; `finished(name, record)` is called after each, also where it was stopped."""
        threads = []
        for job in every:
            if not self._acquire(job.workers):
                break
            thread = threading.Thread(target=self._job, args=(job, finished))
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()

    def _acquire(self, workers: int) -> bool:
        """Wait until so many workers are free; False where the time is up first."""
        with self._changed:
            while self._free < workers:
                if time.monotonic() >= self.deadline:
                    return False
                self._changed.wait(1.0)
            self._free -= workers
        return time.monotonic() < self.deadline

    def _job(self, job: Job, finished: Callable[[str, dict[str, Any]], None]) -> None:
        began = time.monotonic()
        record: dict[str, Any] = {"file": job.file, "workers": job.workers}
        try:
            settings = {**job.settings, "data.root": str(self.data), "train.device": self.device}
            state = grid.open_grid(ROOT / "experiments" / job.file, job.axes, settings, runs_dir=self.runs_dir)
            record["folder"] = state.folder.name
            try:
                grid.ablate(state, runs_dir=self.runs_dir, workers=job.workers, watch=GridProgress(), check=self._check)
            except StoppedError:
                grid_results.finish(state)  # the table of the cells that are done
            states = list(state.states.values())
            record |= {"cells": len(states), "done": states.count("done"), "failed": states.count("failed")}
            record["errors"] = {number: text.splitlines()[0] for number, text in state.errors.items()}
        except EbsimError as error:
            record["error"] = str(error)
        except Exception as error:  # a job must not take the others with it
            record["error"] = f"{type(error).__name__}: {error}"
        finally:
            record["seconds"] = round(time.monotonic() - began, 1)
            with self._changed:
                self._free += job.workers
                self._changed.notify_all()
            finished(job.name, record)

    def _check(self) -> None:
        if time.monotonic() >= self.deadline:
            raise StoppedError("the time is up")


def pack_results(runs_dir: Path, archive: Path) -> None:
    """Run folders (without their pages and figures) and grid folders as one archive, whole or absent."""
    with _archive(archive) as out:
        for path in sorted(runs_dir.glob("*/**/*")):
            parts = path.relative_to(runs_dir).parts
            in_run = parts[0] not in ("grids", "stages")
            if parts[0] == "stages" or not path.is_file() or (in_run and parts[1] in SKIPPED) or "logs" in parts:
                continue
            out.add(path, arcname=str(Path(*parts)))


def pack_stages(runs_dir: Path, archive: Path) -> None:
    """What goes on from where it was: each stage's files without the copies that only repairing needs."""
    with _archive(archive) as out:
        for path in sorted((runs_dir / "stages").glob("*/*")):
            if path.is_file() and path.name != "previous.safetensors" and not path.name.startswith("."):
                out.add(path, arcname=str(path.relative_to(runs_dir)))


def unpack(archive: Path, runs_dir: Path) -> None:
    """Put the files of an archive where a run looks for them."""
    with tarfile.open(archive) as packed:
        packed.extractall(runs_dir, filter="data")


class _archive:
    """A tar.xz that appears under its name when it is whole."""

    def __init__(self, path: Path) -> None:
        self._path, self._temporary = path, path.with_name(f".{path.name}.tmp")

    def __enter__(self) -> tarfile.TarFile:
        self._file = tarfile.open(self._temporary, "w:xz", preset=1)
        return self._file

    def __exit__(self, kind: object, *_: object) -> None:
        self._file.close()
        if kind is None:
            self._temporary.replace(self._path)
