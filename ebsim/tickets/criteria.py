"""The pruning criteria by name. Reading this registry costs no torch, so an experiment is checked against it.

How to add one: write a function `(model, inputs) -> Tensor [channels]` in `scores.py`, and a line in `CRITERIA` here.
The Early-Bird detector watches the masks that follow, whatever the criterion.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ebsim.tickets.scores import ScoringInputs


@dataclass(frozen=True)
class Criterion:
    """What ranks channels. function: its name in `scores.py`; passes: forward and backward passes over a batch."""

    function: str
    summary: str
    passes: int = 0

    def score(self, model: nn.Module, inputs: ScoringInputs) -> Tensor:
        """A score per BatchNorm channel, all layers in order, [channels]; the smallest are pruned."""
        scores: Tensor = getattr(importlib.import_module("ebsim.tickets.scores"), self.function)(model, inputs)
        return scores


CRITERIA = {
    "gamma": Criterion("gamma", "size of the BatchNorm scale"),
    "magnitude": Criterion("magnitude", "norm of the filters, relative to their layer"),
    "taylor": Criterion("taylor", "first-order change of the loss", passes=1),
    "random": Criterion("random", "uniform random scores; a control"),
}
