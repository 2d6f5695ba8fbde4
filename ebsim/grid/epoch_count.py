"""Counts the epochs of a grid: trained, distinct, and what the cells would have trained without sharing.

Three sources that know nothing of each other: the event logs of the stages (a line per epoch, written by the process
that trained it), the curves in the run folders (which epochs of which stages a cell used or found), and the ledgers
(what every row of every cell executed on paper). Nothing was trained twice exactly when the first two agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ebsim.files import read_json
from ebsim.runs.store import Stage


@dataclass(frozen=True)
class EpochCount:
    """Epochs. `trained`: in the logs, repetitions included; `distinct`: different (stage, epoch) pairs;
    `asked`: summed over the rows of all cells, as if nothing were shared; `stages`: different trainings."""

    trained: int
    distinct: int
    asked: int
    stages: int

    def __str__(self) -> str:
        again = f" ({self.trained - self.distinct} of them again)" if self.trained > self.distinct else ""
        return (
            f"{self.trained} epochs trained{again} for {self.distinct} distinct ones in {self.stages} trainings; "
            f"without sharing, the cells would have trained {self.asked}"
        )


def count(runs: Iterable[Path], store: Path) -> EpochCount:
    """Count the epochs behind finished runs; `store` is the folder of stages that they share."""
    used: set[tuple[str, int]] = set()
    asked = 0
    for run in runs:
        curves = read_json(run / "curves.json")
        used |= {(stage, point["epoch"]) for stage, curve in curves.items() for point in curve}
        asked += sum(entry["epochs"] for row in read_json(run / "results.json")["rows"] for entry in row["ledger"])
    stages = sorted({stage for stage, _ in used})
    logged = Counter(
        (stage, event["epoch"])
        for stage in stages
        for event in Stage(stage, store / stage, {}).events()
        if event["event"] == "epoch"
    )
    return EpochCount(sum(logged[pair] for pair in used), len(used), asked, len(stages))
