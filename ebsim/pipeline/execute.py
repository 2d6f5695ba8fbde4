"""Executes an experiment, from its TOML to its report (`ebsim.run` and the command run).

config -> data -> methods over shared stages -> ledger -> hardware model -> run folder -> report. Every step looks
first at what is there, so the same call continues an interrupted run and says so of a finished one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebsim.config import PROFILE_COPY, Experiment
from ebsim.config.write import to_toml
from ebsim.errors import ConfigError
from ebsim.files import read_json, write_atomic, write_json
from ebsim.methods import METHODS
from ebsim.pipeline import plugin_copies, validation
from ebsim.pipeline.setup import open_context, precisions_used
from ebsim.pipeline.validation import load
from ebsim.runs.inventory import PROGRESS
from ebsim.runs.run_folder import RunFolder
from ebsim.runs.store import exclusive

if TYPE_CHECKING:
    from ebsim.experiment.context import ExperimentContext
    from ebsim.experiment.result import MethodResult
    from ebsim.pricing.profile import Profile
    from ebsim.training.progress import Progress
    from hw_models import Accelerator


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and its results (see docs/run-folder.md)."""

    path: Path
    results: dict[str, Any]
    reused: bool = False


def run(
    path: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    runs_dir: str | Path = "runs",
    progress: Progress | None = None,
    strict: bool = False,
) -> Run:
    """Run an experiment file; continues or reuses what is there. Raises an `EbsimError` (see `ebsim.errors`).

    overrides: dotted keys, {"train.epochs": 40}. runs_dir: where run folders and the store of stages live. strict:
    refuse training stages that were trained by other code, another torch or another number of threads.
    """
    return run_experiment(load(path, overrides), Path(runs_dir), progress, strict=strict)


def run_experiment(
    experiment: Experiment, runs_dir: Path, progress: Progress | None = None, *, strict: bool = False
) -> Run:
    """Run a validated experiment. A finished run whose accelerator profile has changed since is only priced again.

    strict: refuse training stages that were trained under other conditions than the present ones.
    """
    from ebsim.pricing import profile
    from ebsim.training import team as teams

    wanted = profile.read(experiment.hardware.profile)
    context = open_context(experiment, runs_dir, progress, strict=strict)
    folder = RunFolder(run_folder(experiment, runs_dir, context.data.digest))
    if experiment.train.devices not in (1, teams.team().size):
        raise ConfigError(
            f"train.devices = {experiment.train.devices}: {teams.team().size} process(es) train here. Start the run "
            "with `cli.py run` or torchrun; `ablate` and `ebsim.run` train in one process."
        )
    try:
        with teams.told_if_lost():
            return _lead(folder, context, wanted) if teams.team().leader else _follow(folder, context)
    finally:
        teams.leave()


def _lead(folder: RunFolder, context: ExperimentContext, wanted: Profile) -> Run:
    """Run the experiment, or find it done; other processes of a team are told to `_follow`."""
    from ebsim.pipeline.energy_so_far import EnergySoFar
    from ebsim.pricing import reprice
    from ebsim.pricing.price import price
    from ebsim.training import Recorded
    from ebsim.training import team as teams

    experiment = context.experiment
    if (finished := _finished(folder, wanted)) is not None:
        teams.team().share(False)
        return finished
    if not folder.is_done:
        _check_formats(context, wanted)
    with exclusive(folder.path):
        if (finished := _finished(folder, wanted)) is not None:
            teams.team().share(False)
            return finished  # by another process, since this one looked
        if folder.is_done:
            teams.team().share(False)
            content, why = reprice.price_again(folder, experiment.hardware, wanted)
            context.progress.note(why)
            return _close(folder, content)
        write_atomic(folder.path / "experiment.toml", to_toml(plugin_copies.keep(experiment, folder.path)))
        write_atomic(folder.path / PROFILE_COPY, wanted.text)
        started = time.time()
        teams.team().share(True)  # the other processes train along from here
        context.progress = EnergySoFar(Recorded(context.progress, folder.path / PROGRESS), context, wanted.chip)

        def tell(row: MethodResult) -> None:
            hardware = experiment.hardware
            own: Any = {"method": row.method, "accuracy": row.accuracy, "ledger": row.ledger}
            [priced] = price(
                [own], context.networks, wanted.chip, reuse=hardware.reuse, hypothetical=hardware.hypothetical
            )
            context.progress.work(
                "result", label=row.label, ratio=row.ratio, accuracy=row.accuracy, epoch_drawn=row.epoch_drawn,
                joules=priced["energy"]["joules"], hardware=wanted.chip.name,
            )  # fmt: skip

        rows = [row for name in experiment.methods for row in METHODS[name].results(context, tell)]
        teams.leave()
        return _finish(folder, context, rows, wanted.chip, started)


def _follow(folder: RunFolder, context: ExperimentContext) -> Run:
    """Train along in a process that is not the leader: the same methods on the same numbers, and nothing written."""
    from ebsim.training import team as teams

    if teams.team().share(None):
        for name in context.experiment.methods:
            METHODS[name].results(context)
    return Run(folder.path, {})


def _finished(folder: RunFolder, wanted: Profile) -> Run | None:
    """The finished run, if it is there, holds, and was priced on this profile by this revision of the model."""
    from ebsim.pricing import reprice

    if not folder.is_done:
        return None
    folder.verify()
    if reprice.stored_pricing_key(folder) != reprice.pricing_key(wanted.digest):
        return None
    return Run(folder.path, read_json(folder.path / "results.json"), reused=True)


def _check_formats(context: ExperimentContext, wanted: Profile) -> None:
    """`ConfigError` if a layer will multiply formats that the accelerator does not have."""
    from ebsim import precision
    from ebsim.precision.rounded_layers import layers
    from ebsim.pricing.format_check import check_formats

    hardware = context.experiment.hardware
    if hardware.hypothetical:
        return
    names = list(layers(context.dense_network()))
    records = {
        f"precision {backend} of {', '.join(methods)}": precision.record(context.backend(backend), names)
        for backend, methods in precisions_used(context).items()
    }
    check_formats(hardware.profile, wanted.chip, records, names)


def run_folder(experiment: Experiment, runs_dir: Path, dataset_digest: str) -> Path:
    """Where the run of an experiment on this dataset lives."""
    identity = {
        **experiment.identity(),
        "precision": validation.identities(experiment),
        "dataset_digest": dataset_digest,
    }
    return RunFolder.of(runs_dir, experiment.name, identity).path


def _finish(
    folder: RunFolder, context: ExperimentContext, rows: list[MethodResult], chip: Accelerator, started: float
) -> Run:
    """Price the ledgers, write the run's files and its report, then the manifest."""
    from ebsim.pipeline import results
    from ebsim.pricing.reprice import pricing_key
    from ebsim.runs import provenance

    path, trajectories = folder.path, context.trajectories.values()
    trained = sum(trajectory.trained for trajectory in trajectories)
    curves = {trajectory.stage.id: trajectory.own_curve() for trajectory in trajectories}
    used = sum(map(len, curves.values()))
    content = results.results(context, rows, chip)
    content["seconds"] = round(time.time() - started, 3)
    content["epochs_trained"] = trained
    content["epochs_reused"] = max(0, used - trained)
    write_json(path / "results.json", content)
    write_json(path / "networks.json", context.networks)
    write_json(path / "curves.json", curves)
    write_json(path / "masks.json", results.masks(context))
    write_json(
        path / "provenance.json",
        {
            **provenance.collect(str(context.device)),
            **provenance.trained_under({t.stage.id: t.history for t in trajectories}),
            "dataset_digest": context.data.digest,
            "precision_plugins": validation.outsiders(context.experiment),
            **pricing_key(chip.digest),
            "folder": path.as_posix(),
            "finished": provenance.now(),
        },
    )
    return _close(folder, content)


def _close(folder: RunFolder, content: dict[str, Any]) -> Run:
    """The report, then the manifest over everything in the folder."""
    from ebsim import report

    report.write_report(folder.path)
    folder.finish()
    return Run(folder.path, content)
