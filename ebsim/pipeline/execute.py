"""An experiment from its TOML to its report: what `cli.py run` calls, and `ebsim.run`.

config -> data -> methods over shared stages -> ledger -> hardware model -> run folder -> report. Every step looks
first at what is there, so the same call continues an interrupted run and says so of a finished one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebsim import config
from ebsim.config import PROFILE_COPY, Experiment
from ebsim.config.write import to_toml
from ebsim.errors import ConfigError
from ebsim.files import read_json, write_atomic, write_json
from ebsim.methods import METHODS
from ebsim.pipeline import validation
from ebsim.runs import folder as folders
from ebsim.runs.store import Store, exclusive

if TYPE_CHECKING:
    from ebsim.experiment.context import Lab
    from ebsim.experiment.result import Row
    from ebsim.training.progress import Progress
    from hw_models import Accelerator


def choices() -> dict[str, Callable[[], Iterable[str]]]:
    """Which names each key may have; none of these imports torch."""
    from importlib.resources import files

    import hw_models
    from ebsim.data import catalogue
    from ebsim.models import FAMILIES

    return {
        "data.name": lambda: catalogue.DATASETS,
        "model.name": lambda: FAMILIES,
        "methods": lambda: METHODS,
        "hardware.profile": lambda: [
            path.name.removesuffix(".toml") for path in (files("hw_models") / "profiles").iterdir()
        ],
        "hardware.reuse": lambda: hw_models.REUSE_MODELS,
    }


RULES: config.Rules = (validation.network_mistakes, validation.mistakes)


def load(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """Read and validate an experiment file, names included. Raises `ConfigError`."""
    experiment = config.load(path, overrides, choices(), RULES)
    if experiment.grid:
        raise ConfigError(
            f"{path}: has a [grid] table, so it is many experiments: python cli.py ablate {path} (or one of them: "
            "--set grid={} and values of your own)"
        )
    return experiment


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
) -> Run:
    """Run an experiment file; continues or reuses what is there. Raises an `EbsimError` (see `ebsim.errors`).

    overrides: dotted keys, {"train.epochs": 40}. runs_dir: where run folders and the store of stages live.
    """
    return run_experiment(load(path, overrides), Path(runs_dir), progress)


def run_experiment(experiment: Experiment, runs_dir: Path, progress: Progress | None = None) -> Run:
    """Run a validated experiment. A finished run whose accelerator profile has changed since is only priced again."""
    from ebsim.pricing import profile, reprice

    wanted = profile.read(experiment.hardware.profile)
    lab = open_lab(experiment, runs_dir, progress)
    folder = run_folder(experiment, runs_dir, lab.data.digest)
    if folders.is_done(folder):
        folders.verify(folder)
        if reprice.priced_by(folder) == reprice.made_by(wanted.digest):
            return Run(folder, read_json(folder / "results.json"), reused=True)
        with exclusive(folder):
            content, why = reprice.price_again(folder, experiment, wanted)
            lab.progress.note(why)
            return _close(folder, content)
    reprice.check_formats(lab, wanted.chip, _users(lab))
    with exclusive(folder):
        write_atomic(folder / "experiment.toml", to_toml(experiment))
        write_atomic(folder / PROFILE_COPY, wanted.text)
        started = time.time()
        rows = [row for name in experiment.methods for row in METHODS[name].rows(lab)]
        return _finish(folder, lab, rows, wanted.chip, started)


def run_folder(experiment: Experiment, runs_dir: Path, dataset_digest: str) -> Path:
    """Where the run of an experiment on this dataset lives."""
    identity = {
        **experiment.identity(),
        "precision": validation.identities(experiment),
        "dataset_digest": dataset_digest,
    }
    return folders.run_folder(runs_dir, experiment.name, identity)


def open_lab(experiment: Experiment, runs_dir: Path, progress: Progress | None = None) -> Lab:
    """Device, dataset and store of an experiment. Raises `DataError` before anything is written."""
    import torch

    from ebsim.experiment.context import Lab
    from ebsim.training import Silent

    device = pick_device(experiment.train.device)
    if experiment.train.threads:
        torch.set_num_threads(experiment.train.threads)
    dataset = load_data(experiment, device)
    return Lab(experiment, dataset, Store(runs_dir / "stages"), device, progress or Silent())


def precision_plans(experiment: Experiment, backend: str | None = None) -> list[str]:
    """What each precision of an experiment would round in its network, as text tables; nothing is trained."""
    from ebsim import precision

    lab = open_lab(experiment, Path("."))
    network = lab.dense_network()
    if backend:
        return [str(precision.plan(network, lab.backend(backend)))]
    return [
        f"{', '.join(methods)}: {precision.plan(network, lab.backend(name))}\n" for name, methods in _users(lab).items()
    ]


def _users(lab: Lab) -> dict[str, list[str]]:
    """Precision -> the methods that work in it."""
    users: dict[str, list[str]] = {}
    for method in lab.experiment.methods:
        for backend in METHODS[method].precisions(lab):
            users.setdefault(backend, []).append(method)
    return users


def load_data(experiment: Experiment, device: Any = "cpu") -> Any:
    """The dataset of an experiment. Raises `DataError`."""
    from ebsim import data

    section = experiment.data
    return data.load(
        section.name,
        root=section.root,
        device=device,
        download=section.download,
        subset=section.subset,
        augment=section.augment,
        workers=section.workers,
    )


def pick_device(name: str) -> Any:
    """`torch.device` of `train.device`; auto takes a GPU where there is one."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f'train.device = "{name}": this torch sees no GPU; use auto or cpu.')
    return torch.device(name)


def _finish(folder: Path, lab: Lab, rows: list[Row], chip: Accelerator, started: float) -> Run:
    """Price the ledgers, write the run's files and its report, then the manifest."""
    from ebsim.pipeline import results
    from ebsim.pricing import reprice
    from ebsim.runs import provenance

    trained = sum(trajectory.trained for trajectory in lab.trajectories.values())
    curves = {trajectory.stage.id: trajectory.own_curve() for trajectory in lab.trajectories.values()}
    used = sum(map(len, curves.values()))
    content = results.results(lab, rows, chip)
    content["seconds"] = round(time.time() - started, 3)
    content["epochs_trained"] = trained
    content["epochs_reused"] = max(0, used - trained)
    write_json(folder / "results.json", content)
    write_json(folder / "networks.json", lab.networks)
    write_json(folder / "curves.json", curves)
    write_json(folder / "masks.json", results.masks(lab))
    write_json(
        folder / "provenance.json",
        {
            **provenance.collect(str(lab.device)),
            "dataset_digest": lab.data.digest,
            "precision_plugins": validation.outsiders(lab.experiment),
            **reprice.made_by(chip.digest),
            "folder": folder.as_posix(),
            "finished": provenance.now(),
        },
    )
    return _close(folder, content)


def _close(folder: Path, content: dict[str, Any]) -> Run:
    """The report, then the manifest over everything in the folder."""
    from ebsim import report

    report.write_report(folder)
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    folders.finish(folder, files)
    return Run(folder, content)
