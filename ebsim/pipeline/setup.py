"""Sets up an experiment before its methods start: device, dataset, store of stages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebsim.config import Experiment
from ebsim.errors import ConfigError
from ebsim.methods import METHODS
from ebsim.runs.store import Store

if TYPE_CHECKING:
    from ebsim.experiment.context import ExperimentContext
    from ebsim.training.progress import Progress


def open_context(
    experiment: Experiment, runs_dir: Path, progress: Progress | None = None, *, strict: bool = False
) -> ExperimentContext:
    """Device, dataset and store of an experiment. Raises `DataError` before anything is written."""
    import torch

    from ebsim.experiment.context import ExperimentContext
    from ebsim.training import Silent
    from ebsim.training import team as teams

    device = pick_device(experiment.train.device)
    team = teams.join(device)
    if experiment.train.threads:
        torch.set_num_threads(experiment.train.threads)
    dataset = load_data(experiment, device)
    store = Store(runs_dir / "stages", writable=team.leader)
    return ExperimentContext(experiment, dataset, store, device, progress or Silent(), strict=strict)


def precision_plans(experiment: Experiment, backend: str | None = None) -> list[str]:
    """What each precision of an experiment would round in its network, as text tables; nothing is trained."""
    from ebsim import precision

    context = open_context(experiment, Path("."))
    network = context.dense_network()
    if backend:
        return [str(precision.plan(network, context.backend(backend)))]
    return [
        f"{', '.join(methods)}: {precision.plan(network, context.backend(name))}\n"
        for name, methods in precisions_used(context).items()
    ]


def precisions_used(context: ExperimentContext) -> dict[str, list[str]]:
    """Precision -> the methods that work in it."""
    users: dict[str, list[str]] = {}
    for method in context.experiment.methods:
        for backend in METHODS[method].precisions(context):
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
        decode=section.decode,
    )


def pick_device(name: str) -> Any:
    """`torch.device` of `train.device`; auto takes a GPU where there is one."""
    import os

    import torch

    if name == "auto" and torch.cuda.is_available():
        own = os.environ.get("LOCAL_RANK")  # set by torchrun: a GPU for each process
        return torch.device("cuda" if own is None else f"cuda:{int(own) % torch.cuda.device_count()}")
    if name == "auto":
        return torch.device("cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f'train.device = "{name}": this torch sees no GPU; use auto or cpu.')
    return torch.device(name)
