"""`MethodResult`: accuracy, network and ledger of one method at one prune ratio, a row of results.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebsim.experiment.training_stages import Training
    from ebsim.tickets import ChannelMask


@dataclass
class MethodResult:
    """Result of one method at one prune ratio (or none). Energies are added later, from `ledger`.

    trajectory: stage of the dense training behind it; curve: stage of the last one; network: key of the layer table of
    what it ends with. weights_kept: fraction of the prunable weights, where they are pruned one by one.
    """

    method: str
    label: str
    ratio: float | None
    search_precision: str
    retrain_precision: str
    ledger: list[dict[str, Any]] = field(default_factory=list)
    trajectory: str | None = None
    curve: str | None = None
    network: str | None = None
    epoch_drawn: int | None = None
    emerged: bool = True
    accuracy: float | None = None
    best_accuracy: float | None = None
    accuracy_top5: float | None = None
    averaged: bool = False
    channels_kept: int | None = None
    weights_kept: float | None = None
    kept_floor: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def record_final_training(
        self, last: Training, stage: str = "retrain", mask: ChannelMask | None = None
    ) -> MethodResult:
        """The method's last training: its ledger entry, its accuracies and what is left of the network."""
        self.ledger.append(last.ledger(stage))
        self.curve, self.network = last.stage, last.key
        for name, value in accuracies(last.curve()).items():
            setattr(self, name, value)
        if mask is not None:
            self.channels_kept, self.kept_floor = sum(mask.kept().values()), list(mask.kept_floor)
        if last.weights is not None:
            self.weights_kept = 1 - last.weights.ratio
            self.kept_floor = list(last.weights.kept_floor)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, with the two precisions as the paper writes them (FF, LF, LL, FL)."""
        letters = "".join("F" if name == "fp32" else "L" for name in (self.search_precision, self.retrain_precision))
        return {**asdict(self), "precision": letters}


def accuracies(curve: list[dict[str, Any]]) -> dict[str, Any]:
    """The headline (last epoch) and, beside it, the best epoch on the test set as the paper reports it.

    Where the precision prescribes weight averaging (SWA), both are the averaged network's: like is held against like.
    """
    tested = [row for row in curve if "test_accuracy" in row]
    if not tested:
        return {}
    last = tested[-1]
    which = "average_accuracy" if "average_accuracy" in last else "test_accuracy"
    return {
        "accuracy": last[which],
        "best_accuracy": max(row[which] for row in tested if which in row),
        "accuracy_top5": last.get("average_top5", last.get("test_top5")),
        "averaged": "average_accuracy" in last,
    }
