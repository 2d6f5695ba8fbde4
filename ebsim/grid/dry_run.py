"""Dry run of an experiment: its methods run on stub trainings, to plan their stages, ledgers and energy.

The methods themselves say which trainings they need, how long each is and which they share; nothing here knows any
method. The channel scores of a stub training never change, so a ticket emerges as early as the rule allows. For a
method that inherits weights that is the most epochs it can cost (the earlier the draw, the longer the retraining); for
others a later draw costs more, so totals say "about". Scores are random, alike for all trainings but for the order of
the channels within a layer: tickets differ, as they will, while one of each choice of widths tells what all cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ebsim import tickets
from ebsim.config import Experiment
from ebsim.experiment.context import ExperimentContext
from ebsim.files import digest
from ebsim.methods import METHODS
from ebsim.runs.store import Stage, Store
from ebsim.training import Averaging

Epoch = tuple[str, int]


class StubTrajectory:
    """Has the interface of `training.Trajectory` and trains nothing."""

    def __init__(
        self,
        stage: Stage,
        network: Callable[[], nn.Module],
        data: Any,
        train: Any,
        *,
        first: int = 0,
        backend: Any = "fp32",
        averaging: Averaging | None = None,
        **_: Any,
    ) -> None:
        self.stage, self.first, self.epoch, self.backend = stage, first, first, backend
        self._averaging = averaging
        self._network, self._data, self._train = network, data, train
        self._scores: Tensor | None = None

    @property
    def gammas(self) -> Tensor:
        if self._scores is None:
            layers = tickets.bn_layers(self._network())
            widths = torch.rand(sum(layers.values()), generator=torch.Generator().manual_seed(0))
            own = self._generator()
            parts = [part[torch.randperm(len(part), generator=own)] for part in widths.split(list(layers.values()))]
            self._scores = torch.cat(parts)
        return self._scores.expand(self.epoch - self.first + 1, -1)

    @property
    def curve(self) -> list[dict[str, Any]]:
        return [self._row(epoch) for epoch in range(self.first + 1, self.epoch + 1)]

    def _row(self, epoch: int) -> dict[str, Any]:
        images = self._data.train_images
        row = {"epoch": epoch, "lr": 0.0, "loss": 0.0, "accuracy": 0.0, "seconds": 0.0, "images": images,
               "steps": -(-images // self._train.batch_size)}  # fmt: skip
        tested = epoch % self._train.eval_every == 0 or epoch == self._train.epochs
        test = {"test_loss": 0.0, "test_accuracy": 0.0, "test_images": self._data.test_images}
        if epoch == self._train.epochs and self.averages(epoch):
            test |= {"average_accuracy": 0.0, "average_images": images + self._data.test_images}
        return row | (test if tested else {})

    def averages(self, epoch: int) -> bool:
        return self._averaging is not None and self._averaging.includes(epoch)

    def extend(self, to: int, until: Callable[[Tensor], bool] | None = None) -> int:
        while self.epoch < to and not (until is not None and until(self.gammas)):
            self.epoch += 1
        return self.epoch

    def state_at(self, epoch: int) -> dict[str, Tensor]:
        """The initial weights with up to 10 % of noise: masks of two trainings must differ, as they will."""
        own, state = self._generator(), self._network().state_dict()
        return {
            name: tensor * (1 + 0.1 * torch.rand(tensor.shape, generator=own)) if tensor.is_floating_point() else tensor
            for name, tensor in state.items()
        }

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(int(self.stage.id.rpartition("-")[2], 16))

    def own_curve(self) -> list[dict[str, Any]]:
        return self.curve

    def release(self) -> None: ...


class StageNames(Store):
    """Gives stages the names that the store would give them, and makes no folder."""

    def stage(self, kind: str, identity: Mapping[str, Any]) -> Stage:
        return self.name(kind, identity)


@dataclass
class DryRunContext(ExperimentContext):
    """Shrinks and traces one ticket of each choice of widths, whichever channels it has."""

    shrunken: dict[str, nn.Module] = field(default_factory=dict)

    def ticket_key(self, mask: tickets.ChannelMask) -> str:
        return f"ticket-{digest(mask.kept())[:12]}"

    def shrunk(self, mask: tickets.ChannelMask) -> nn.Module:
        key = self.ticket_key(mask)
        if key not in self.shrunken:
            self.shrunken[key] = super().shrunk(mask)
        return deepcopy(self.shrunken[key])


@dataclass
class SharedNetworks:
    """What the dry runs of one network on one dataset share, so that each ticket is shrunk and traced once."""

    networks: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    facts: dict[str, dict[str, int]] = field(default_factory=dict)
    shrunken: dict[str, nn.Module] = field(default_factory=dict)


@dataclass(frozen=True)
class DryRun:
    """What one cell would do.

    trained: the epochs of its trainings, with the name of the precision each is in. asked: epochs summed over its
    rows, as if they shared nothing. joules: modelled, likewise. steps, tests: optimizer steps and test images of one
    epoch.
    """

    trained: dict[Epoch, str]
    asked: int
    joules: float
    steps: int
    tests: int


def dry_run(experiment: Experiment, data: Any, store: Path, shared: SharedNetworks) -> DryRun:
    """Run the methods of one experiment on stub trainings and price what they would execute."""
    import hw_models

    context = DryRunContext(
        experiment, data, StageNames(store), torch.device("cpu"), make_trajectory=cast(Any, StubTrajectory),
        networks=shared.networks, facts=shared.facts, shrunken=shared.shrunken,
    )  # fmt: skip
    chip = hw_models.load(experiment.hardware.profile)
    rows = [row for name in experiment.methods for row in METHODS[name].results(context)]
    hardware = experiment.hardware
    bills = [
        hw_models.price(row.ledger, context.networks, chip, model=hardware.reuse, hypothetical=hardware.hypothetical)
        for row in rows
    ]
    made: Any = context.trajectories.values()
    return DryRun(
        trained={(own.stage.id, row["epoch"]): own.backend.name for own in made for row in own.curve},
        asked=sum(entry["epochs"] for row in rows for entry in row.ledger),
        joules=sum(bill.joules for bill in bills),
        steps=-(-data.train_images // experiment.train.batch_size),
        tests=data.test_images,
    )
