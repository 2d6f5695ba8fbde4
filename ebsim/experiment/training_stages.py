"""The stages that methods are made of: a trajectory together with the network that it trains and what that costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from ebsim import precision, tickets
from ebsim.runs.ledger import entry
from ebsim.training import Trajectory

if TYPE_CHECKING:
    from ebsim.experiment.context import Lab


@dataclass
class Training:
    """A trajectory. `key` names the layer table of its network, which `network` builds (with any weights).

    channels: BatchNorm channels of that network. weights: the mask over its weights, where they are pruned one by one.
    """

    lab: Lab
    trajectory: Trajectory
    backend: Any
    key: str
    network: Callable[[], nn.Module]
    channels: int
    weights: tickets.ChannelMask | None = None

    @property
    def stage(self) -> str:
        """The stage's id: its folder in the store, its curve in the run's files."""
        return self.trajectory.stage.id

    def curve(self, until: int | None = None) -> list[dict[str, Any]]:
        """One row per epoch, up to `until` or N: what this experiment asked for, whoever trained and tested more."""
        last = self.lab.epochs if until is None else until
        return [row for row in self.trajectory.own_curve() if row["epoch"] <= last]

    def ledger(self, stage: str, until: int | None = None, *, draws: int = 0) -> dict[str, Any]:
        """What the epochs up to `until` or N executed."""
        train = self.lab.experiment.train
        return entry(
            stage,
            self.lab.workload(self.key, self.network),
            self.curve(until),
            precision.apply(self.network(), self.backend).record(),
            batch_size=train.batch_size,
            draws=draws,
            channels=self.channels,
            l1=train.l1 > 0,
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

        def emerged(gammas: Any) -> bool:
            return self.lab.emergence(gammas, ratio)[0] is not None

        self.trajectory.extend(self.lab.epochs, until=emerged)
        return self.lab.emergence(self.trajectory.gammas[: self.lab.epochs + 1], ratio)[0]

    def train(self, until: int | None = None) -> None:
        """Train to epoch `until`, or N."""
        self.trajectory.extend(self.lab.epochs if until is None else until)

    def mask(self, ratio: float, epoch: int) -> tickets.ChannelMask:
        """The mask drawn from the scores after `epoch`."""
        least = self.lab.experiment.prune.min_channels
        return tickets.masks_from_gammas(self.trajectory.gammas[epoch], self.lab.layers, ratio, least)

    def draws(self, stage: str, epochs: int | None = None, *, count: int) -> list[dict[str, Any]]:
        """The ledger of training to an epoch and drawing `count` masks on the way, scoring by batches included."""
        passes = count * tickets.CRITERIA[self.lab.experiment.prune.criterion].passes
        scored = [scoring(self.lab, len(self.lab.batch[1]), passes)] if passes else []
        return [self.ledger(stage, epochs, draws=count), *scored]

    def best_epoch(self) -> int:
        """The first of the epochs up to N with the best accuracy on the test set."""
        tested = [row for row in self.curve() if "test_accuracy" in row]
        return max(tested, key=lambda row: (row["test_accuracy"], -row["epoch"]))["epoch"]


def scoring(lab: Lab, images: int, passes: int, *, forward: bool = False) -> dict[str, Any]:
    """The ledger entry of scoring the dense network in fp32, `passes` times: forward and backward, or forward only."""
    record = precision.apply(lab.dense_network(), "fp32").record()
    curve = [{"images": 0, "steps": 0, "test_images": images} if forward else {"images": images, "steps": 1}] * passes
    key = lab.workload("dense", lab.dense_network)
    return entry("score", key, curve, record, batch_size=images, draws=0, channels=0, l1=False)
