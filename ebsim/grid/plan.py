"""The plan of a grid before anything is trained: trainings, epochs, time and modelled energy, and what sharing saves.

Which trainings there are comes from a dry run of the methods (`dry_run.py`), one cell for each setting of the axes
other than the seed; what differs in the seed alone costs the same. Time comes from a few timed steps of the dense
network in each precision; a ticket's step is taken to be as long (it is shorter), an evaluated image to cost a third of
a trained one. Energy is what the accelerator model says of the ledgers of the dry run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ebsim import pipeline
from ebsim.config import Experiment
from ebsim.files import canonical_json
from ebsim.grid.expand import Axes
from ebsim.grid.state import DONE, FAILED, PENDING, GridState
from ebsim.report.display.value import counted, duration, quantity, significant


@dataclass(frozen=True)
class GridPlan:
    """What the cells still to run cost. `asked` and `joules` are sums over their rows, as if nothing were shared."""

    cells: int
    done: int
    failed: int
    to_run: int
    trainings: int
    dense: int
    epochs: int
    asked: int
    joules: float
    hardware: tuple[str, ...]
    threads: int
    step_seconds: dict[str, float]
    """Precision -> seconds of one step of the dense network (the mean, over several networks); empty if not timed."""
    seconds: float | None
    """Of all trainings on one worker; None if not timed."""
    unknown: dict[str, str]
    """Cells that could not be run dry, and why; they are in none of the figures."""
    stale: int = 0
    """Of the cells to run, those that are only priced again; they cost no training."""
    searches: dict[int, frozenset[str]] = field(default_factory=dict)
    """Number of a cell to run -> its dense trainings, as "seed stage" (the names are those of one seed)."""

    def as_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "searches"}


def draw_up(grid_state: GridState, runs_dir: Path, *, probe_steps: int = 3) -> GridPlan:
    """Dry-run the pending cells of a grid, and time `probe_steps` steps of each network and precision."""
    from ebsim.grid.dry_run import DryRun, Epoch, SharedNetworks, dry_run

    pending = grid_state.cells(PENDING)
    todo = [cell for cell in pending if cell.number not in grid_state.stale]
    shared: dict[str, SharedNetworks] = {}
    data: dict[str, Any] = {}
    families: dict[str, DryRun] = {}
    clock: dict[str, float] = {}
    used: dict[tuple[int, Epoch], float] = {}  # seed, epoch -> seconds
    times: dict[str, list[float]] = {}
    asked, joules = 0, 0.0
    unknown: dict[str, str] = {}
    searches: dict[int, frozenset[str]] = {}
    for cell in todo:
        own = cell.experiment
        place = own.data.model_dump_json()
        data[place] = data.get(place) or pipeline.load_data(own)
        family = _family(own)
        if family not in families:
            network = canonical_json([own.data.identity(), own.model.identity()])
            try:
                families[family] = dry_run(
                    own, data[place], runs_dir / "stages", shared.setdefault(network, SharedNetworks())
                )
            except Exception as error:  # whatever stub scores do to a method, the grid itself can be run
                unknown[cell.label] = f"{type(error).__name__}: {error}"
                continue
        found = families[family]
        dense = {stage for stage, _ in found.trained if stage.startswith("dense-")}
        searches[cell.number] = frozenset(f"{own.seed} {stage}" for stage in dense)
        asked, joules = asked + found.asked, joules + found.joules
        for epoch, precision in found.trained.items():
            seconds = _seconds(own, precision, runs_dir, probe_steps, clock) if probe_steps else 0.0
            times.setdefault(precision, []).append(seconds)
            used[own.seed, epoch] = seconds * (found.steps + found.tests / own.train.batch_size / 3)
    stages = {(seed, stage) for seed, (stage, _) in used}
    return GridPlan(
        cells=len(grid_state.grid.cells),
        done=len(grid_state.cells(DONE)),
        failed=len(grid_state.cells(FAILED)),
        to_run=len(pending),
        trainings=len(stages),
        dense=sum(stage.startswith("dense-") for _, stage in stages),
        epochs=len(used),
        asked=asked,
        joules=joules,
        hardware=tuple(dict.fromkeys(cell.experiment.hardware.profile for cell in grid_state.grid.cells)),
        threads=grid_state.grid.cells[0].experiment.train.threads or 1,
        step_seconds={key: sum(own) / len(own) for key, own in times.items()} if probe_steps else {},
        seconds=sum(used.values()) if probe_steps else None,
        unknown=unknown,
        stale=len(grid_state.stale),
        searches=searches,
    )


def _family(experiment: Experiment) -> str:
    return canonical_json({**experiment.identity(), "seed": None})


def _seconds(experiment: Experiment, precision: str, runs_dir: Path, steps: int, known: dict[str, float]) -> float:
    """Seconds of one training step of the dense network, timed once for all that are alike."""
    train = experiment.train
    alike = [experiment.data.identity(), experiment.model.identity(), train.batch_size, train.amp, train.tf32,
             train.compile, precision, experiment.precision.backends.get(precision)]  # fmt: skip
    key = canonical_json(alike)
    if key not in known:
        known[key] = probe(experiment, precision, runs_dir, steps)
    return known[key]


def probe(experiment: Experiment, precision: str, runs_dir: Path, steps: int) -> float:
    """Seconds of a step of the dense network in a precision: the median of at least `steps`."""
    import torch

    from ebsim import tickets
    from ebsim.experiment.context import ExperimentContext
    from ebsim.grid.dry_run import StageNames
    from ebsim.grid.step_timing import Sample, pace
    from ebsim.training import Setup

    threads = torch.get_num_threads()
    train = experiment.train
    device = pipeline.pick_device(train.device)
    try:
        torch.set_num_threads(train.threads or 1)
        context = ExperimentContext(experiment, pipeline.load_data(experiment, device), StageNames(runs_dir), device)
        sample = Sample(context.data)
        setup = Setup(
            context.dense_network, sample, train, context.seed, device, lambda model, epoch: tickets.gammas(model),
            backend=context.backend(precision),
        )  # fmt: skip
        return pace(setup, sample, steps).step
    finally:
        torch.set_num_threads(threads)


def lines(plan: GridPlan, axes: Axes, workers: int) -> list[str]:
    """The plan in a few lines for a person."""
    product = " x ".join(f"{len(values)} {key}" for key, values in axes.items())
    before = f"; {plan.failed} failed before (--retry-failed runs them again)" if plan.failed else ""
    out = [f"{counted(plan.cells, 'cell')} ({product}): {plan.done} done, {plan.to_run} to run{before}"]
    if plan.stale:
        out.append(f"{plan.stale} of them only priced again, because their accelerator profile has changed")
    if plan.to_run == plan.stale:
        return out
    if plan.unknown:
        label, why = next(iter(plan.unknown.items()))
        out.append(f"{len(plan.unknown)} cells could not be run dry and are not in these figures ({label}: {why})")
    saved = 1 - plan.epochs / plan.asked if plan.asked else 0.0
    out.append(
        f"about {counted(plan.trainings, 'training')} ({plan.dense} dense), {plan.epochs:,} epochs; without sharing "
        f"{plan.asked:,}: {100 * saved:.0f} % saved"
    )
    if plan.seconds is not None:
        steps = ", ".join(f"{key} {significant(1000 * value)} ms" for key, value in plan.step_seconds.items())
        each = f"{plan.threads} thread{'s' if plan.threads > 1 else ''} each"
        out.append(
            f"about {duration(plan.seconds / workers)} with {workers} worker{'s' if workers > 1 else ''}, {each} "
            f"(a dense step: {steps})"
        )
    energy = quantity(plan.joules, "J")
    return [*out, f"about {energy} modelled on {', '.join(plan.hardware)}, summed over the rows of all cells to run"]
