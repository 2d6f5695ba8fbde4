"""One line of a comparison: what a method ended with, and the ledger of what it executed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Row:
    """Result of one method at one prune ratio (or none). Energies are added later, from `ledger`."""

    method: str
    label: str
    ratio: float | None
    search_precision: str
    retrain_precision: str
    ledger: list[dict[str, Any]]
    trajectory: str
    curve: str
    epoch_drawn: int | None = None
    emerged: bool = True
    accuracy: float | None = None
    best_accuracy: float | None = None
    accuracy_top5: float | None = None
    averaged: bool = False
    channels_kept: int | None = None
    kept_floor: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, with the two precisions as the paper writes them (FF, LF, LL, FL)."""
        letters = "".join("F" if name == "fp32" else "L" for name in (self.search_precision, self.retrain_precision))
        return {**asdict(self), "precision": letters}


def accuracies(curve: list[dict[str, Any]]) -> dict[str, Any]:
    """The headline (last epoch) and, beside it, the best epoch on the test set as the paper reports it.

    Where the precision prescribes weight averaging (SWA), the headline is the averaged network's.
    """
    tested = [row for row in curve if "test_accuracy" in row]
    if not tested:
        return {}
    last = tested[-1]
    return {
        "accuracy": last.get("average_accuracy", last["test_accuracy"]),
        "best_accuracy": max(row["test_accuracy"] for row in tested),
        "accuracy_top5": last.get("average_top5", last.get("test_top5")),
        "averaged": "average_accuracy" in last,
    }
