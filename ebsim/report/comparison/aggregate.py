"""Aggregates runs over seeds: mean, spread and a paired test against a baseline for every compared result.

A line is a row of a run's results (method, ratio, precision) under one setting of the axes other than the seed. What
does not depend on an axis (the dense baseline under every prune ratio) is one result and one line, not a replicate.
Rows whose ticket never emerged have nothing to average; how many there were is told beside the mean of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ebsim.errors import ConfigError
from ebsim.report.comparison import stats
from ebsim.report.comparison.stats import Paired, Sample
from ebsim.runs.load import Run
from ebsim.runs.schema import Row

# A row carries these itself (its ratio and precisions), so equal rows under different values of them are one result.
CARRIED = ("prune.ratio", "precision.search", "precision.retrain", "precision.low")

METRICS: dict[str, Callable[[Row], float | None]] = {
    "accuracy": lambda row: row.accuracy,
    "best_accuracy": lambda row: row.best_accuracy,
    "epoch_drawn": lambda row: row.epoch_drawn,
    "parameters": lambda row: row.parameters,
    "macs": lambda row: row.macs,
    "joules": lambda row: row.energy.joules,
}

Settings = Mapping[str, Any]
Baseline = str | Mapping[str, Any]
"""The method that is compared against, or settings: the same method where the axes have these values."""


@dataclass(frozen=True)
class Member:
    """A finished run and its values of the axes, the seed left out."""

    settings: Settings
    seed: int
    run: Run


@dataclass
class Replicates:
    """One line of a comparison: the rows of several seeds that differ in nothing else."""

    method: str
    label: str
    place: int
    """How many rows of the same method, ratio and precision stand before it in its run (prune-at-epoch has several)."""
    ratio: float | None
    search_precision: str | None
    retrain_precision: str | None
    under: list[Settings]
    """All settings under which this result was found."""
    rows: dict[int, Row] = field(default_factory=dict)
    """By seed."""

    @property
    def identity(self) -> tuple[Any, ...]:
        return self.method, self.label, self.place, self.ratio, self.search_precision, self.retrain_precision

    @property
    def settings(self) -> dict[str, Any]:
        """Values of the axes that all its runs agree in."""
        first, *others = self.under
        return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}

    @property
    def finished(self) -> dict[int, Row]:
        """By seed, where something was trained to the end."""
        return {seed: row for seed, row in sorted(self.rows.items()) if row.accuracy is not None}

    def sample(self, metric: str) -> Sample | None:
        """Mean and spread of a metric over the seeds; None where no seed has it."""
        values = [METRICS[metric](row) for row in self.finished.values()]
        known = [float(value) for value in values if value is not None]
        return stats.sample(known) if known else None

    def against(self, other: Replicates, metric: str) -> Paired | None:
        """This minus the other, seed by seed; None without a common seed."""
        pairs = [(METRICS[metric](row), METRICS[metric](other.finished[seed]))
                 for seed, row in self.finished.items() if seed in other.finished]  # fmt: skip
        known = [(x, y) for x, y in pairs if x is not None and y is not None]
        return stats.paired([x for x, _ in known], [y for _, y in known]) if known else None

    def saving(self, other: Replicates) -> Sample | None:
        """1 - E / E of the other, seed by seed; None without a common seed."""
        shares = [1 - row.energy.joules / other.finished[seed].energy.joules
                  for seed, row in self.finished.items() if seed in other.finished]  # fmt: skip
        return stats.sample(shares) if shares else None


def lines(members: Iterable[Member]) -> list[Replicates]:
    """All lines of some runs, in the order in which their first rows appear."""
    groups: dict[tuple[Any, ...], Replicates] = {}
    for member in members:
        seen: dict[tuple[Any, ...], int] = {}
        for row in member.run.rows:
            kind = (row.method, row.label, row.ratio, row.search_precision, row.retrain_precision)
            place = seen[kind] = seen.get(kind, -1) + 1
            key = (*kind, place, repr(sorted(member.settings.items())))
            line = groups.setdefault(key, Replicates(row.method, row.label, place, *kind[2:], [member.settings]))
            line.rows[member.seed] = row
    out: list[Replicates] = []
    for line in groups.values():
        twin = next((other for other in out if _same(line, other)), None)
        if twin is None:
            out.append(line)
        else:
            twin.under += line.under
            twin.rows = line.rows | twin.rows
    return out


def _same(one: Replicates, other: Replicates) -> bool:
    """Whether two lines are one result, found under settings that it does not depend on."""
    if one.identity != other.identity:
        return False
    settings, others = one.under[0], other.under[0]
    differing = {key for key in {*settings, *others} if settings.get(key) != others.get(key)}
    if one.ratio is not None and not differing <= set(CARRIED):
        return False  # two emergence rules that agree are still two findings
    common = one.rows.keys() & other.rows.keys()
    return bool(common) and all(_finding(one.rows[seed]) == _finding(other.rows[seed]) for seed in common)


def _finding(row: Row) -> tuple[Any, ...]:
    return row.trajectory, row.curve, row.epoch_drawn, row.accuracy, row.energy.joules, row.parameters


def baseline_of(line: Replicates, every: Sequence[Replicates], baseline: Baseline) -> Replicates | None:
    """The line that `line` is compared against; None where there is none (or it is that line itself)."""
    if isinstance(baseline, str):
        found = [
            other for other in every
            if other.method == baseline and other.ratio in (line.ratio, None)
            and any(_agree(own, theirs) for own in line.under for theirs in other.under)
        ]  # fmt: skip
        # A baseline that has precisions of its own is met at the same ones, where it was run at them.
        found.sort(key=lambda other: (other.search_precision != line.search_precision)
                   + (other.retrain_precision != line.retrain_precision))  # fmt: skip
    else:
        targets = [{**own, **baseline} for own in line.under]
        found = [
            other for other in every
            if (other.method, other.label, other.place) == (line.method, line.label, line.place)
            and any(own == target for own in other.under for target in targets)
        ]  # fmt: skip
        alike = [other for other in found if other.ratio == line.ratio]
        found = alike or (found if len(found) == 1 else [])
    return None if not found or found[0] is line else found[0]


def _agree(own: Settings, theirs: Settings) -> bool:
    """Whether two cells differ at most in the method and in what their rows carry themselves."""
    free = {*CARRIED, "methods"}
    return all(own.get(key) == theirs.get(key) for key in {*own, *theirs} - free)


def check_baseline(baseline: Baseline, methods: Iterable[str], axes: Mapping[str, Sequence[Any]]) -> None:
    """`ConfigError` if nothing answers to the baseline; `dense` is the default and may be missing."""
    known = list(dict.fromkeys(methods))
    if isinstance(baseline, str):
        if baseline != "dense" and baseline not in known:
            raise ConfigError(f"--baseline {baseline}: not a method here; there are {', '.join(known)}.")
        return
    for key, value in baseline.items():
        if key not in axes:
            raise ConfigError(f"--baseline {key}={value}: not an axis here; there are {', '.join(axes) or 'none'}.")
        if value not in axes[key]:
            raise ConfigError(f"--baseline {key}={value}: the axis has {', '.join(map(str, axes[key]))}.")
