"""The training curves of a run by name: dense trainings first, then each ticket from the epoch of its draw."""

from __future__ import annotations

from dataclasses import dataclass

from ebsim.report.display.text import plain
from ebsim.report.tables import row_labels
from ebsim.runs.load import Run
from ebsim.runs.schema import CurvePoint


@dataclass(frozen=True)
class TrainingLine:
    name: str
    group: str
    """The name without the ratio."""
    points: list[CurvePoint]
    ratio: float | None
    drawn: int | None = None
    start: CurvePoint | None = None
    """The point of the dense trajectory at which the ticket was drawn."""


def training_lines(run: Run) -> list[TrainingLine]:
    """Dense trajectories first, then one line per retrained ticket, in the order of the table."""
    out: list[TrainingLine] = []
    seen: set[str | None] = set()
    labels = dict(zip(map(id, run.rows), row_labels.short(run.rows), strict=True))
    searches = {row.trajectory for row in run.rows if row.trajectory in run.curves}
    for row in run.rows:  # whole dense trainings
        if row.curve is not None and row.ratio is None:
            seen.add(row.curve)
            out.append(TrainingLine(labels[id(row)], labels[id(row)], run.curves[row.curve], None))
    for row in run.rows:  # dense trainings that ended with the search
        if row.trajectory in searches - seen:
            seen.add(row.trajectory)
            name = f"dense search, {plain(row.search_precision)}" if len(searches) > 1 else "dense search"
            out.append(TrainingLine(name, name, run.curves[row.trajectory or ""], None))
    for row in run.rows:
        if row.curve is None or row.curve in seen:
            continue
        points = run.curves[row.curve]
        went_on = points and row.epoch_drawn is not None and points[0].epoch == row.epoch_drawn + 1
        before = run.curves.get(row.trajectory or "", []) if went_on else []
        start = next((point for point in before if point.epoch == row.epoch_drawn), None)
        group = row_labels.group(row, run.rows) or labels[id(row)]
        out.append(TrainingLine(labels[id(row)], group, points, row.ratio, row.epoch_drawn, start))
    return out
