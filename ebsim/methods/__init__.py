"""The methods by name. Each file reads like its paper; a new one is a function and a line here.

Importing this package costs no torch: a method's module is imported when it runs.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ebsim.errors import ConfigError

if TYPE_CHECKING:
    from ebsim.experiment.context import ExperimentContext
    from ebsim.experiment.result import MethodResult


@dataclass(frozen=True)
class Method:
    """An entry of the registry.

    module: file below ebsim/methods/. over: what it is run over, ratios and draw epochs. options: of its `run`. uses:
    precisions it computes in, by key of the section (`search`, `retrain`), or "fp32" where that is fixed. stages: its
    trainings, as its ledger calls them.
    """

    module: str
    summary: str
    over: tuple[str, ...] = ("ratio",)
    options: dict[str, Any] = field(default_factory=dict)
    uses: tuple[str, ...] = ("search", "retrain")
    stages: tuple[str, ...] = ("search", "retrain")

    def points(self, context: ExperimentContext) -> list[tuple[Any, ...]]:
        """The combinations of what it is run over, one for each of its rows."""
        values = {"ratio": context.prune.ratio, "epoch": context.prune.draw_epochs}
        return list(itertools.product(*(values[axis] for axis in self.over)))

    def results(
        self, context: ExperimentContext, done: Callable[[MethodResult], None] = lambda row: None
    ) -> list[MethodResult]:
        """Run it, once for every combination of what it is run over; `done` is called after each."""
        names = context.experiment.methods
        name = next(key for key, method in METHODS.items() if method is self)
        before = itertools.takewhile(lambda other: other != name, names)
        first = 1 + sum(len(METHODS[other].points(context)) for other in before)
        total = sum(len(METHODS[other].points(context)) for other in names)
        rows = []
        for number, point in enumerate(self.points(context), start=first):
            ratio = point[0] if self.over else None
            context.charged.clear()
            context.progress.work(
                "task", method=name, ratio=ratio, number=number, total=total, epochs=context.epochs, stages=self.stages
            )
            row = self.row(context, point)
            if not row.ledger:
                raise ConfigError(
                    f"method {row.method} trained nothing: nothing is in its ledger, so it has no result."
                )
            done(row)
            rows.append(row)
        return rows

    @property
    def ranks_layers(self) -> bool:
        """Whether its masks are drawn from ranked channels of every layer, so that layers can be left out of them."""
        return self.module in _RANKING and self.options.get("widths") != "uniform"

    def row(self, context: ExperimentContext, point: tuple[Any, ...]) -> MethodResult:
        """Run it at one of its `points`."""
        result: MethodResult = importlib.import_module(f"ebsim.methods.{self.module}").run(
            context, *point, **self.options
        )
        return result

    def precisions(self, context: ExperimentContext) -> list[str]:
        """The backends that its rows will be computed in, by name."""
        from ebsim.tickets import CRITERIA

        search, retrain = context.precisions(self.options.get("precision", ""))
        names = {"search": search, "retrain": retrain, "fp32": "fp32"}
        scores = "search" in self.uses and CRITERIA[context.prune.criterion].passes > 0
        return list(dict.fromkeys(names[use] for use in (*self.uses, *(["fp32"] if scores else []))))


_RANKING = ("eb_train", "network_slimming", "prune_at_epoch", "random_ticket")

METHODS = {
    "dense": Method("dense", "the whole network, all epochs", over=(), uses=("fp32",), stages=("dense",)),
    "eb-train": Method("eb_train", "Early-Bird ticket, inherited weights"),
    "eb-train-reinit": Method("eb_train", "Early-Bird ticket, fresh weights", options={"init": "re-init"}),
    "eb-train-rewind": Method("eb_train", "Early-Bird ticket, weights of the start", options={"init": "rewind"}),
    "eb-train-lf": Method("eb_train", "searched in low precision, retrained in fp32", options={"precision": "LF"}),
    "eb-train-ll": Method("eb_train", "searched and retrained in low precision", options={"precision": "LL"}),
    "eb-train-fl": Method("eb_train", "searched in fp32, retrained in low precision", options={"precision": "FL"}),
    "random-ticket": Method("random_ticket", "the ticket's widths, random channels"),
    "random-uniform": Method("random_ticket", "uniform widths, random channels", options={"widths": "uniform"}),
    "network-slimming": Method(
        "network_slimming", "full training, smallest gammas pruned, full training", stages=("dense", "retrain")
    ),
    "network-slimming-reinit": Method(
        "network_slimming", "the same from fresh weights", options={"init": "re-init"}, stages=("dense", "retrain")
    ),
    "thinet": Method(
        "thinet",
        "full training, greedy channel choice by reconstruction, full training",
        uses=("search", "retrain", "fp32"),
        stages=("dense", "retrain"),
    ),
    "sfp": Method(
        "sfp", "soft filter pruning after each epoch, from scratch", uses=("retrain",), stages=("soft pruning",)
    ),
    "sfp-pretrained": Method(
        "sfp",
        "soft filter pruning of the dense network",
        options={"pretrained": True},
        stages=("dense", "soft pruning"),
    ),
    "lottery-ticket": Method(
        "lottery_ticket",
        "single weights: full training, mask by size, rewind, full training",
        stages=("dense", "train"),
    ),
    "snip": Method(
        "snip",
        "single weights, at the start, by the sensitivity of the loss to each",
        uses=("retrain", "fp32"),
        stages=("train",),
    ),
    "grasp": Method(
        "grasp", "single weights, at the start, by gradient flow", uses=("retrain", "fp32"), stages=("train",)
    ),
    "synflow": Method(
        "synflow",
        "single weights, at the start, by synaptic flow, without data",
        uses=("retrain", "fp32"),
        stages=("train",),
    ),
    "prune-at-epoch": Method("prune_at_epoch", "drawn at each of prune.draw_epochs", over=("ratio", "epoch")),
    "prune-at-epoch-reinit": Method(
        "prune_at_epoch", "the same from fresh weights", over=("ratio", "epoch"), options={"init": "re-init"}
    ),
    "random-at-epoch": Method(
        "prune_at_epoch",
        "the widths of that ticket, random channels",
        over=("ratio", "epoch"),
        options={"channels": "random"},
    ),
    "prune-at-best": Method("prune_at_epoch", "drawn at the epoch of best test accuracy", options={"epoch": "best"}),
}
