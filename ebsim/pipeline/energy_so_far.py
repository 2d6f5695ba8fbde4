"""Modelled joules while a row is being trained: what its ledger says so far, the epoch that is over included."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import hw_models
from hw_models.errors import HardwareError

if TYPE_CHECKING:
    from ebsim.experiment.context import ExperimentContext
    from ebsim.training.progress import Progress


class EnergySoFar:
    """A `training.Progress` that adds `joules` to each epoch: the energy of the row under way, up to that epoch.

    A stage that another row has trained already is charged to this one too, as in the results; the last value of a row
    is its energy there.
    """

    def __init__(self, inner: Progress, context: ExperimentContext, chip: hw_models.Accelerator) -> None:
        self._inner, self._context, self._chip = inner, context, chip
        self._known: dict[Any, Any] = {}  # costs of single steps: an epoch changes only how many there are

    def begin(self, stage: str, first: int, last: int) -> None:
        self._inner.begin(stage, first, last)

    def step(self, done: int, total: int) -> None:
        self._inner.step(done, total)

    def epoch(self, stage: str, row: dict[str, Any]) -> None:
        joules = self._joules(stage, row["epoch"])
        self._inner.epoch(stage, row if joules is None else {**row, "joules": joules})

    def end(self, stage: str) -> None:
        self._inner.end(stage)

    def note(self, text: str) -> None:
        self._inner.note(text)

    def work(self, what: str, **facts: Any) -> None:
        self._inner.work(what, **facts)

    def _joules(self, stage: str, epoch: int) -> float | None:
        """None where it is not known: an epoch that is trained again is in nobody's ledger."""
        context, training = self._context, self._context.trainings.get(stage)
        curve = [] if training is None else training.trajectory.curve
        if training is None or not curve or curve[-1]["epoch"] != epoch:
            return None
        hardware = context.experiment.hardware
        ledger = [*context.charged, training.entry("so far", curve)]
        with contextlib.suppress(HardwareError):  # whoever prices the finished row says what is wrong
            return hw_models.price(
                ledger, context.networks, self._chip, model=hardware.reuse, hypothetical=hardware.hypothetical,
                known=self._known,
            ).joules  # fmt: skip
        return None
