"""The plan of one run before anything is trained: time, memory, disk, and modelled energy per stage.

The methods run as they are on stub trainings (`dry_run.py`). What the store of stages holds already is
used: real channel scores where they are known, and no time for epochs that are trained. Time comes from real steps of
each network that will be trained (`step_timing.py`), with its tests and checkpoints, from the dry run itself (tracing,
shrinking and verifying networks), and from what a report takes.
"""

from __future__ import annotations

import math
import resource
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ebsim import pipeline, tickets
from ebsim.config import Experiment
from ebsim.grid.dry_run import DryRunContext, StageNames, StubTrajectory
from ebsim.grid.step_timing import NONE, Clock, Pace, Sample, pace
from ebsim.methods import METHODS
from ebsim.runs.inventory import DONE
from ebsim.runs.store import Stage
from ebsim.training import Setup
from ebsim.training.setup import tested

REPORT_BYTES = 4_000_000  # page, figures and tables of a run of a few rows
REPORT_SECONDS = (3.0, 0.1)  # of CPU, for a report and for each of its rows (AMD EPYC, 2.5 GHz)


@dataclass(frozen=True)
class PlannedTraining:
    """One stage: epochs `first`+1 to `last`, of which `trained` are in the store. seconds: of what is left."""

    stage: str
    parameters: int
    precision: str
    first: int
    last: int
    trained: int
    step_seconds: float
    epoch_seconds: float
    seconds: float
    disk: int
    disturbed: bool = False
    """Whether other work took the CPU while it was timed; its times are then CPU seconds."""


@dataclass(frozen=True)
class PlannedRow:
    """One row of the results. stages: [(stage of its ledger, epochs, joules)]; saving: against dense, None without."""

    method: str
    label: str
    ratio: float | None
    epoch_drawn: int | None
    joules: float
    saving: float | None
    stages: tuple[tuple[str, int, float], ...]


@dataclass(frozen=True)
class RunPlan:
    """Of one run: where it goes, its trainings and rows. memory: peak bytes while timing (the process, or the GPU)."""

    folder: Path
    state: str
    trainings: tuple[PlannedTraining, ...]
    rows: tuple[PlannedRow, ...]
    hardware: str
    device: str
    threads: int
    memory: int
    free: int
    setup_seconds: float
    """Of starting, loading the data, and tracing, shrinking and verifying networks, as they took for the plan."""
    report_seconds: float

    @property
    def seconds(self) -> float:
        """Of the whole run, its report included; 0 where it is done, or where steps were not timed."""
        trainings = sum(training.seconds for training in self.trainings)
        untimed = not trainings and any(own.trained < own.last - own.first for own in self.trainings)
        return 0.0 if self.state == DONE or untimed else trainings + self.setup_seconds + self.report_seconds

    @property
    def disturbed(self) -> bool:
        """Whether the machine was busy with other work while it was timed."""
        return any(training.disturbed for training in self.trainings)

    @property
    def disk(self) -> int:
        """Bytes that will be written."""
        return sum(training.disk for training in self.trainings) + REPORT_BYTES

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "folder": str(self.folder),
            "seconds": self.seconds,
            "disk": self.disk,
            "disturbed": self.disturbed,
        }


class Planned(StubTrajectory):
    """A stub training that knows what the store has of it, and when its ticket is to emerge."""

    def __init__(self, *parts: Any, emergence: int | None, window: int, rule: str, **options: Any) -> None:
        super().__init__(*parts, **options)
        keys = ("seed", "device", "first", "stats_every", "averaging", "constraint", "backend")
        given = {key: options[key] for key in keys if options.get(key) is not None}
        score = options.get("score", lambda model, epoch: tickets.gammas(model))
        self.setup = Setup(self._network, self._data, self._train, score=score, **given)
        # Masks stay as they are from `settled` on, which is what the rule waits `window` epochs (masks) for.
        # The untrained mask counts for none: with all scales equal it is near no other.
        earliest = 1 if rule == "authors" else 0
        self._settled = earliest if emergence is None else emergence - window + (rule == "authors")
        self._known = stored_scores(self.stage)

    @property
    def gammas(self) -> Tensor:
        rows = list(super().gammas)
        for epoch in range(len(rows)):
            if self._known is not None and epoch < len(self._known):
                rows[epoch] = self._known[epoch]
            elif self._known is not None:
                rows[epoch] = self._known[-1]
            elif epoch + self.first < self._settled:
                order = torch.randperm(len(rows[epoch]), generator=torch.Generator().manual_seed(epoch))
                rows[epoch] = rows[epoch][order]
        return torch.stack(rows)


def stored_scores(stage: Stage) -> Tensor | None:
    """Channel scores of the epochs that a stage of the store has, [epochs + 1, channels]; None without any."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(stage.folder / "last.safetensors"), framework="pt") as handle:
            return handle.get_tensor("gammas")
    except (OSError, SafetensorError):
        return None


def plan_run(
    experiment: Experiment,
    runs_dir: Path,
    *,
    probe_steps: int = 3,
    emergence: int | None = None,
    startup: float = 0.0,
) -> RunPlan:
    """Plan one experiment. probe_steps: real steps timed per network, 0 for none. emergence: epoch at which tickets are
    taken to emerge (None: as the store says, or as early as the rule allows). startup: seconds that a process takes
    until it can begin. Raises what `run` would raise before it trains.
    """
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(experiment.train.threads or threads)
        return _plan(experiment, runs_dir, probe_steps, emergence, startup)
    finally:
        torch.set_num_threads(threads)


def _plan(experiment: Experiment, runs_dir: Path, probe_steps: int, emergence: int | None, startup: float) -> RunPlan:
    from ebsim.pricing import profile
    from ebsim.pricing.price import price
    from ebsim.runs.inventory import look

    device = pipeline.pick_device(experiment.train.device)
    clock = Clock(torch.device("cpu"))
    data, loading = clock.measured(lambda: pipeline.load_data(experiment, device))
    prune, hardware = experiment.prune, experiment.hardware
    make = partial(Planned, emergence=emergence, window=prune.window, rule=prune.rule)
    context = DryRunContext(experiment, data, StageNames(runs_dir / "stages"), device, make_trajectory=cast(Any, make))
    rows, dry = clock.measured(lambda: [row for name in experiment.methods for row in METHODS[name].results(context)])
    chip = profile.read(hardware.profile).chip
    # A stub's accuracy stands for "finished": without one a row has no saving.
    priced = price(
        [{**row.to_dict(), "accuracy": row.accuracy} for row in rows], context.networks, chip,
        reuse=hardware.reuse, hypothetical=hardware.hypothetical,
    )  # fmt: skip
    paces = Paces(probe_steps)
    trainings = tuple(_training(own, context, paces) for own in cast("Any", context.trajectories).values())
    folder = pipeline.run_folder(experiment, runs_dir, data.digest)
    above = next(place for place in (runs_dir, *runs_dir.absolute().parents) if place.exists())
    return RunPlan(
        folder=folder,
        state=look(folder).state if folder.exists() else "new",
        trainings=trainings,
        rows=tuple(_row(row) for row in priced),
        hardware=chip.name,
        device=str(device),
        threads=torch.get_num_threads(),
        memory=_peak_memory(device),
        free=shutil.disk_usage(above).free,
        setup_seconds=startup + loading.seconds + dry.seconds,
        report_seconds=REPORT_SECONDS[0] + REPORT_SECONDS[1] * len(rows),
    )


def _row(row: Mapping[str, Any]) -> PlannedRow:
    stages = zip(row["ledger"], row["energy"]["stages"], strict=True)
    return PlannedRow(
        row["method"], row["label"], row["ratio"], row["epoch_drawn"], row["energy"]["joules"], row["saving_vs_dense"],
        tuple((entry["stage"], entry["epochs"], energy["joules"]) for entry, energy in stages),
    )  # fmt: skip


def _training(own: Planned, context: DryRunContext, pace: Callable[[Planned, nn.Module], Pace]) -> PlannedTraining:
    train, data = context.train, context.data
    model = own._network()
    stored = stored_scores(own.stage)
    trained = 0 if stored is None else min(len(stored) - 1, own.epoch - own.first)
    left = range(own.first + trained + 1, own.epoch + 1)
    taken = pace(own, model) if left else NONE
    epoch = data.train_images / train.batch_size * taken.step + taken.epoch
    tests = sum(tested(epoch, train) for epoch in left)
    # Weights and buffers, momentum, scores; the newest state, the one before, and those that are kept.
    state = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    momentum = sum(p.numel() * p.element_size() for p in model.parameters())
    kept = 2 + len(context.prune.ratio) * own.stage.id.startswith("dense")
    disk = (state + momentum + own.gammas.numel() * 4) * kept if left else 0
    return PlannedTraining(
        own.stage.id, sum(p.numel() for p in model.parameters()), own.backend.name, own.first, own.epoch, trained,
        taken.step, epoch, len(left) * epoch + tests * taken.test + taken.start, disk, taken.disturbed,
    )  # fmt: skip


class Paces:
    """The pace of each training, timed once for those that are alike: in precision, and within 5 % in parameters."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._known: dict[tuple[Any, ...], Pace] = {}

    def __call__(self, own: Planned, model: nn.Module) -> Pace:
        if not self._steps:
            return NONE
        size = sum(parameter.numel() for parameter in model.parameters())
        kind = own.stage.id.partition("-")[0]
        key = (kind, own.backend.name, round(math.log(size) / math.log(1.05)))
        if key in self._known:
            return replace(self._known[key], start=0.0)  # what is compiled once is compiled
        sample = Sample(own.setup.data)
        self._known[key] = pace(replace(own.setup, data=sample, meter=None), sample, self._steps)
        return self._known[key]


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
