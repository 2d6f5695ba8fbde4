"""Training stages of the methods: a trajectory, the network that it trains, and the ledger of what it executed.

The dense training, searched for a ticket or run to the end, is here; those of pruned networks are in `retraining`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from ebsim import tickets
from ebsim.config import Prune
from ebsim.experiment.context import ExperimentContext
from ebsim.runs.ledger import entry
from ebsim.seeds import seed_of
from ebsim.tickets.emergence_rule import largest_distance
from ebsim.training import Trajectory


@dataclass
class Training:
    """A trajectory. `key` names the layer table of its network, which `network` builds (with any weights).

    channels: BatchNorm channels of that network. weights: the mask over its weights, where they are pruned one by one.
    """

    context: ExperimentContext
    trajectory: Trajectory
    backend: Any
    key: str
    network: Callable[[], nn.Module]
    channels: int
    weights: tickets.ChannelMask | None = None

    def __post_init__(self) -> None:
        self.context.trainings[self.stage] = self

    @property
    def stage(self) -> str:
        """The stage's id: its folder in the store, its curve in the run's files."""
        return self.trajectory.stage.id

    def curve(self, until: int | None = None) -> list[dict[str, Any]]:
        """One row per epoch, up to `until` or N: what this experiment asked for, not what others trained."""
        last = self.context.epochs if until is None else until
        return [row for row in self.trajectory.own_curve() if row["epoch"] <= last]

    def ledger(self, stage: str, until: int | None = None, *, draws: int = 0) -> dict[str, Any]:
        """What the epochs up to `until` or N executed; noted as charged to the row under way."""
        made = self.entry(stage, self.curve(until), draws=draws)
        self.context.charged.append(made)
        return made

    def entry(self, stage: str, curve: list[dict[str, Any]], *, draws: int = 0) -> dict[str, Any]:
        """What these epochs executed, as a ledger entry."""
        train = self.context.train
        return entry(
            stage,
            self.context.workload(self.key, self.network),
            curve,
            self.context.precision_record(self.key, self.network, self.backend),
            batch_size=train.batch_size,
            draws=draws,
            channels=self.channels,
            l1=train.l1 > 0,
            averages=sum(self.trajectory.averages(row["epoch"]) for row in curve),
            density=self._density(),
        )

    def _density(self) -> dict[str, float] | None:
        """Layer -> fraction of its weights that the mask keeps."""
        if self.weights is None:
            return None
        kept = self.weights.kept()
        return {name.removesuffix(".weight"): kept[name] / size for name, size in self.weights.layers.items()}


@dataclass
class Dense(Training):
    """The dense trajectory, read as the paper does: search until a ticket has emerged."""

    def search(self, ratio: float) -> int | None:
        """Train on until the ticket of this ratio has emerged; its epoch, or None if it has not by epoch N."""

        def emerged(gammas: Tensor) -> bool:
            return emergence(self.context, gammas, ratio)[0] is not None

        self.trajectory.extend(self.context.epochs, until=emerged)
        epoch, distances = emergence(self.context, self.trajectory.gammas[: self.context.epochs + 1], ratio)
        if epoch is not None:
            tell_mask(self.context, ratio, epoch, distances, emerged=True)
        return epoch

    def train(self, until: int | None = None) -> None:
        """Train to epoch `until`, or N."""
        self.trajectory.extend(self.context.epochs if until is None else until)

    def mask(self, ratio: float, epoch: int) -> tickets.ChannelMask:
        """The mask drawn from the scores after `epoch`."""
        prune, gammas = self.context.prune, self.trajectory.gammas[epoch]
        return tickets.masks_from_gammas(gammas, self.context.layers, ratio, prune.min_channels, ignore=prune.ignore)

    def draws(self, stage: str, epochs: int | None = None, *, count: int) -> list[dict[str, Any]]:
        """The ledger of training to an epoch and drawing `count` masks on the way, scoring by batches included."""
        passes = count * tickets.CRITERIA[self.context.prune.criterion].passes
        scored = [scoring(self.context, len(self.context.batch[1]), passes)] if passes else []
        return [self.ledger(stage, epochs, draws=count), *scored]

    def best_epoch(self) -> int:
        """The first of the epochs up to N with the best accuracy on the test set."""
        tested = [row for row in self.curve() if "test_accuracy" in row]
        return max(tested, key=lambda row: (row["test_accuracy"], -row["epoch"]))["epoch"]


def dense_training(context: ExperimentContext, backend_name: str = "fp32") -> Dense:
    """The dense network's training in a precision; states that this experiment or a companion will ask for are kept."""
    backend = context.backend(backend_name)
    criterion = context.prune.criterion
    ranked = {} if criterion == "gamma" else {"criterion": criterion}

    def score(model: nn.Module, epoch: int) -> Tensor:
        """What ranks the channels of the dense network after an epoch."""
        seed = seed_of(context.seed, "criterion", epoch)
        return tickets.CRITERIA[criterion].score(model, tickets.ScoringInputs(lambda: context.batch, seed))

    trajectory = context.trajectory(
        "dense", ranked, context.dense_network, backend, keep=partial(_is_kept, context), score=score
    )
    return Dense(context, trajectory, backend, "dense", context.dense_network, sum(context.layers.values()))


def _is_kept(context: ExperimentContext, gammas: Tensor) -> bool:
    """Whether this experiment or a companion will ask for the dense state of the newest epoch."""
    epoch, every = len(gammas) - 1, context.train.keep_every
    for ratio in context.prune.ratio:
        found, distances = emergence(context, gammas, ratio)
        if found in (None, epoch):
            tell_mask(context, ratio, epoch, distances, emerged=found is not None)
    asked = [(context.epochs, context.prune), *((c.epochs, c.prune) for c in context.experiment.companions)]
    return bool(every and epoch % every == 0) or any(
        epoch == last
        or epoch in prune.draw_epochs
        or any(emergence(context, gammas, ratio, prune)[0] == epoch for ratio in prune.ratio)
        for last, prune in asked
    )


def tell_mask(context: ExperimentContext, ratio: float, epoch: int, distances: list[float], *, emerged: bool) -> None:
    """Tell the newest mask distance, beside what the rule compares with its threshold (None: too few masks yet)."""
    prune = context.prune
    if distances:
        paper = prune.rule == "paper"
        largest = largest_distance("paper", prune.window, distances) if paper else distances[-1]
        context.progress.work(
            "mask", ratio=ratio, epoch=epoch, distance=distances[-1], largest=largest,
            threshold=prune.threshold, emerged=emerged, rule=prune.rule, window=prune.window,
        )  # fmt: skip


def emergence(
    context: ExperimentContext, gammas: Tensor, ratio: float, prune: Prune | None = None
) -> tuple[int | None, list[float]]:
    """(epoch or None, mask distances) of one ratio under the experiment's rule, from the gammas so far."""
    prune = prune or context.prune
    found = tickets.emergence(
        gammas,
        context.layers,
        ratio,
        prune.rule,
        threshold=prune.threshold,
        window=prune.window,
        min_channels=prune.min_channels,
        ignore=prune.ignore,
    )
    return found.epoch, found.distances


def scoring(context: ExperimentContext, images: int, passes: int, *, forward: bool = False) -> dict[str, Any]:
    """The ledger entry of scoring the dense network in fp32, `passes` times: forward and backward, or forward only."""
    curve = [{"images": 0, "steps": 0, "test_images": images} if forward else {"images": images, "steps": 1}] * passes
    key = context.workload("dense", context.dense_network)
    record = context.precision_record(key, context.dense_network, context.backend("fp32"))
    made = entry("score", key, curve, record, batch_size=images, draws=0, channels=0, l1=False)
    context.charged.append(made)
    return made
