"""The methods by name. Each file reads like its paper; a new one is a function and a line here.

Importing this package costs no torch: a method's module is imported when it runs.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebsim.methods.lab import Lab
    from ebsim.methods.row import Row


@dataclass(frozen=True)
class Method:
    """Where a method lives, whether it is run once per prune ratio, and the options it is run with."""

    module: str
    summary: str
    per_ratio: bool = True
    options: dict[str, Any] = field(default_factory=dict)

    def rows(self, lab: Lab) -> list[Row]:
        """Run it: once, or once per ratio of the experiment."""
        run = importlib.import_module(self.module).run
        if not self.per_ratio:
            return [run(lab, **self.options)]
        return [run(lab, ratio, **self.options) for ratio in lab.experiment.prune.ratio]


_EB = "ebsim.methods.eb_train"
METHODS = {
    "dense": Method("ebsim.methods.dense", "the whole network, all epochs", per_ratio=False),
    "eb-train": Method(_EB, "Early-Bird ticket, inherited weights"),
    "eb-train-reinit": Method(_EB, "Early-Bird ticket, fresh weights", options={"init": "re-init"}),
    "eb-train-rewind": Method(_EB, "Early-Bird ticket, weights of the start", options={"init": "rewind"}),
}
