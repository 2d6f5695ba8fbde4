"""What one run will take, before anything is trained: time, memory, disk, and modelled energy per stage.

The methods run as they are on stub trainings (`dry_run.py`). What the store of stages holds already is
used: real channel scores where they are known, and no time for epochs that are trained. Time comes from real steps of
each network that will be trained, in its precision, with its evaluation and the writing of its checkpoint. Not in it:
the report of the run, a few seconds.
"""

from __future__ import annotations

import itertools
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ebsim import pipeline, precision
from ebsim.config import Experiment
from ebsim.grid.dry_run import DryRunContext, StageNames, StubTrajectory
from ebsim.methods import METHODS
from ebsim.runs.store import Stage

REPORT_BYTES = 4_000_000  # page, figures and tables of a run of a few rows


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
    """Of tracing, shrinking and verifying networks, as the dry run took them."""

    @property
    def seconds(self) -> float:
        """Until the report; 0 where everything is trained."""
        trainings = sum(training.seconds for training in self.trainings)
        return trainings + self.setup_seconds if trainings else 0.0

    @property
    def disk(self) -> int:
        """Bytes that will be written."""
        return sum(training.disk for training in self.trainings) + REPORT_BYTES

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder), "seconds": self.seconds, "disk": self.disk}


class Planned(StubTrajectory):
    """A stub training that knows what the store has of it, and when its ticket is to emerge."""

    def __init__(self, *parts: Any, emergence: int | None, window: int, rule: str, **options: Any) -> None:
        super().__init__(*parts, **options)
        # Masks stay as they are from `settled` on, which is what the rule waits `window` epochs (masks) for.
        # The untrained mask is nobody's: with all scales equal it is near no other.
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


def plan_run(experiment: Experiment, runs_dir: Path, *, probe_steps: int = 3, emergence: int | None = None) -> RunPlan:
    """Plan one experiment. probe_steps: real steps timed per network, 0 for none. emergence: epoch at which tickets are
    taken to emerge (None: as the store says, or as early as the rule allows). Raises what `run` would raise before it
    trains.
    """
    from ebsim.pricing import profile
    from ebsim.pricing.price import price
    from ebsim.runs.inventory import look

    device = pipeline.pick_device(experiment.train.device)
    data = pipeline.load_data(experiment, device)
    prune, hardware = experiment.prune, experiment.hardware
    make = partial(Planned, emergence=emergence, window=prune.window, rule=prune.rule)
    context = DryRunContext(experiment, data, StageNames(runs_dir / "stages"), device, make_trajectory=cast(Any, make))
    began = time.perf_counter()
    rows = [row for name in experiment.methods for row in METHODS[name].results(context)]
    setup = time.perf_counter() - began
    chip = profile.read(hardware.profile).chip
    # A stub's accuracy stands for "finished": without one a row has no saving.
    priced = price(
        [{**row.to_dict(), "accuracy": row.accuracy} for row in rows], context.networks, chip,
        reuse=hardware.reuse, hypothetical=hardware.hypothetical,
    )  # fmt: skip
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(experiment.train.threads or threads)
        timed: dict[tuple[Any, ...], tuple[float, float]] = {}
        trajectories = cast("Mapping[str, Planned]", context.trajectories).values()
        trainings = tuple(_training(own, context, probe_steps, timed) for own in trajectories)
        used = torch.get_num_threads()
    finally:
        torch.set_num_threads(threads)
    folder = pipeline.run_folder(experiment, runs_dir, data.digest)
    above = next(place for place in (runs_dir, *runs_dir.absolute().parents) if place.exists())
    return RunPlan(
        folder=folder,
        state=look(folder).state if folder.exists() else "new",
        trainings=trainings,
        rows=tuple(_row(row) for row in priced),
        hardware=chip.name,
        device=str(device),
        threads=used,
        memory=_peak_memory(device),
        free=shutil.disk_usage(above).free,
        setup_seconds=setup,
    )


def _row(row: Mapping[str, Any]) -> PlannedRow:
    stages = zip(row["ledger"], row["energy"]["stages"], strict=True)
    return PlannedRow(
        row["method"], row["label"], row["ratio"], row["epoch_drawn"], row["energy"]["joules"], row["saving_vs_dense"],
        tuple((entry["stage"], entry["epochs"], energy["joules"]) for entry, energy in stages),
    )  # fmt: skip


def _training(
    own: Planned, context: DryRunContext, steps: int, timed: dict[tuple[Any, ...], tuple[float, float]]
) -> PlannedTraining:
    train = context.train
    model = own._network()
    shapes = tuple(tuple(parameter.shape) for parameter in model.parameters())
    key = (shapes, own.backend.name)
    if steps and key not in timed:
        timed[key] = _time(model, own.backend, context, steps)
    step, rest = timed.get(key, (0.0, 0.0))
    stored = stored_scores(own.stage)
    trained = 0 if stored is None else min(len(stored) - 1, own.epoch - own.first)
    left = own.epoch - own.first - trained
    per_epoch = -(-context.data.train_images // train.batch_size)
    epoch = per_epoch * step + rest / train.eval_every
    # Weights and buffers, momentum, scores; the newest state, the one before, and those that are kept.
    state = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    momentum = sum(p.numel() * p.element_size() for p in model.parameters())
    kept = 2 + len(context.prune.ratio) * own.stage.id.startswith("dense")
    disk = (state + momentum + own.gammas.numel() * 4) * kept if left else 0
    return PlannedTraining(
        own.stage.id, sum(p.numel() for p in model.parameters()), own.backend.name, own.first, own.epoch, trained,
        step, epoch, left * epoch, disk,
    )  # fmt: skip


def _time(model: nn.Module, backend: Any, context: DryRunContext, steps: int) -> tuple[float, float]:
    """Seconds of a training step, and of what an epoch takes beside its steps: evaluation, checkpoint, scores."""
    from ebsim.training import Checkpoint, TrainStep, evaluate, make_optimizer, train_epoch
    from ebsim.training.compilation import compiled

    train, device = context.train, context.device
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay)
    placement = precision.apply(model, backend, steps=steps + 1)
    placement.attach(optimizer)
    placement.set_step(0)
    step = TrainStep(model, compiled(model, train.compile), optimizer, l1=train.l1, amp=train.amp)
    batches = itertools.cycle(_some_batches(context, steps + 1))
    _clock(lambda: train_epoch(step, itertools.islice(batches, 1)), device)  # warms up
    each = _clock(lambda: train_epoch(step, itertools.islice(batches, steps)), device) / steps

    size = max(train.batch_size, 500)
    tests = list(itertools.islice(context.data.test_batches(size, memory_format=torch.channels_last), 1))
    seen = sum(len(labels) for _, labels in tests)
    tested = _clock(lambda: evaluate(model, tests, amp=train.amp), device) * context.data.test_images / seen
    with tempfile.TemporaryDirectory() as folder:
        state = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
        moments = {name: torch.zeros_like(p, device="cpu") for name, p in model.named_parameters()}
        point = Checkpoint(1, 1, state, moments, torch.zeros(2, 1))
        written = _clock(lambda: point.save(Path(folder) / "x.safetensors", "plan"), device)
    return each, tested + written


def _some_batches(context: DryRunContext, count: int) -> list[Any]:
    """A few full training batches, not of the partial one at an epoch's end where there are others."""
    made = context.data.train_batches(context.train.batch_size, seed=0, epoch=1, memory_format=torch.channels_last)
    batches = list(itertools.islice(made, count))
    full = [batch for batch in batches if len(batch[1]) == context.train.batch_size]
    return full or batches


def _clock(work: Callable[[], Any], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
