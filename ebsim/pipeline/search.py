"""The dense trainings of an experiment alone: what the cells of a grid share, to be trained before the cells begin.

The methods run as they are and are left where they come to the training of a pruned network. Then every dense training
goes on until the tickets of the other cells (`companions`) have emerged too, so that no cell has to extend it. A dense
training that another process is at is left to that process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ebsim.config import Experiment
from ebsim.experiment.context import ExperimentContext
from ebsim.experiment.training_stages import emergence
from ebsim.methods import METHODS
from ebsim.pipeline.setup import open_context
from ebsim.training import Trajectory
from ebsim.training import team as teams

if TYPE_CHECKING:
    from ebsim.training.progress import Progress


class _Left(Exception):
    """The method has come to what is not to be trained here."""


class _DenseTrajectory(Trajectory):
    """Does not wait where another process trains it."""

    @contextlib.contextmanager
    def _locked(self, waiting: Any = None) -> Iterator[None]:
        def leave() -> None:
            self._progress.note(f"{self.stage.id} is trained by another process")
            raise _Left

        with super()._locked(leave if teams.team().size == 1 else waiting or (lambda: None)):
            yield


@dataclass
class _SearchContext(ExperimentContext):
    """Knows dense trainings only."""

    def trajectory(self, kind: str, *rest: Any, **options: Any) -> Trajectory:
        if kind != "dense":
            raise _Left
        return super().trajectory(kind, *rest, **options)


def train_dense(
    experiment: Experiment, runs_dir: Path, progress: Progress | None = None, *, strict: bool = False
) -> dict[str, int]:
    """Train the dense networks that an experiment's methods start from; stage id -> epochs that it has now.

    Raises what `run_experiment` raises. No run folder is made; the run finds these stages in the store.
    """
    opened = open_context(experiment, runs_dir, progress, strict=strict)
    shared = {item.name: getattr(opened, item.name) for item in fields(opened) if item.init}
    context = _SearchContext(**{**shared, "make_trajectory": _DenseTrajectory})
    try:
        with teams.told_if_lost():
            for name in experiment.methods:
                for point in METHODS[name].points(context):
                    with contextlib.suppress(_Left):
                        METHODS[name].row(context, point)
            for trajectory in context.trajectories.values():
                with contextlib.suppress(_Left):
                    _extend(trajectory, context)
            epochs = {id: trajectory.epoch for id, trajectory in context.trajectories.items()}
        return epochs if teams.team().leader else {}
    finally:
        teams.leave()


def _extend(trajectory: Trajectory, context: ExperimentContext) -> None:
    """Train on until the tickets of all companions that rank channels alike have emerged."""
    for other in context.experiment.companions:
        if other.prune.criterion != context.prune.criterion:
            continue
        for ratio in other.prune.ratio:

            def emerged(gammas: Tensor, ratio: float = ratio, prune: Any = other.prune) -> bool:
                return emergence(context, gammas, ratio, prune)[0] is not None

            trajectory.extend(other.epochs, until=emerged)
