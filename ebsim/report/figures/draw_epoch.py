"""Accuracy of a ticket against the epoch at which it was drawn (the paper's Figure 1), theirs beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ebsim.report.display.text import plain
from ebsim.report.figures import style
from ebsim.report.tables import paper, row_labels
from ebsim.runs.load import Run
from ebsim.runs.schema import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AT_EPOCH = "-at-epoch"  # in the name of every method that draws at given epochs
DRAWN, BEST = "prune-at-epoch", "prune-at-best"


@dataclass(frozen=True)
class DrawSeries:
    """Draws of one method, ratio and precision, by epoch; `best` is the draw from the best epoch."""

    name: str
    ratio: float
    drawn: list[Row]
    best: Row | None


def series(run: Run) -> list[DrawSeries]:
    """One per method, precision and ratio that was drawn at given epochs."""
    kinds = [(row.method, row_labels.precision(row)) for row in run.rows if AT_EPOCH in row.method]
    several = len(set(kinds)) > 1
    out = []
    for method, precision in dict.fromkeys(kinds):
        rows = [row for row in run.rows if row.method == method and row_labels.precision(row) == precision]
        for ratio in sorted({row.ratio for row in rows if row.ratio is not None}):
            drawn = sorted((row for row in rows if row.ratio == ratio), key=lambda row: row.epoch_drawn or 0)
            best = method.replace(DRAWN, BEST) if method.startswith(DRAWN) else ""
            star = [
                row
                for row in run.rows
                if (row.method, row.ratio, row_labels.precision(row)) == (best, ratio, precision)
            ]
            what = [f"p = {ratio:g}", *([method.removeprefix(f"{DRAWN}-"), precision] if several else [])]
            out.append(DrawSeries(plain(", ".join(what)), ratio, drawn, star[0] if star else None))
    return out


def theirs(run: Run, one: DrawSeries) -> list[tuple[int, float]]:
    """The paper's points (epoch, accuracy) for this network, dataset and ratio."""
    place = (run.record.network.name, run.record.network.depth, run.record.dataset.name)
    return [
        (cell.epoch, cell.accuracy)
        for cell in paper.published()
        if (cell.network, cell.depth, cell.dataset, cell.method, cell.ratio) == (*place, DRAWN, one.ratio)
        and isinstance(cell.epoch, int)
        and cell.accuracy is not None
    ]


def data(run: Run) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    header = ("series", "ratio", "epoch_drawn", "is_best_epoch", "accuracy", "best_accuracy", "source")
    rows: list[tuple[Any, ...]] = []
    for one in series(run):
        ours: Sequence[Row] = [*one.drawn, *([one.best] if one.best else [])]
        rows += [(one.name, one.ratio, r.epoch_drawn, r is one.best, r.accuracy, r.best_accuracy, "ours") for r in ours]
        rows += [(one.name, one.ratio, epoch, False, None, found, "paper") for epoch, found in theirs(run, one)]
    return header, rows


def plot(run: Run, width: float) -> Figure:
    every = series(run)
    paint = style.colors([one.name for one in every])
    figure, grid = style.canvas(width, 2.8)
    axes = grid[0][0]
    ours = [row.epoch_drawn or 0 for one in every for row in one.drawn]
    last = max([*ours, *(epoch for one in every for epoch, _ in theirs(run, one))])
    for one in every:
        color, dash = paint[one.name]
        points = [(row.epoch_drawn, 100 * row.accuracy) for row in one.drawn if row.accuracy is not None]
        axes.plot(*zip(*points, strict=True), "o", linestyle=dash, color=color, markersize=3.5, label=one.name)
        if one.best is not None and one.best.accuracy is not None:
            axes.plot([1.08 * last], [100 * one.best.accuracy], "*", color=color, markersize=8)
        if known := theirs(run, one):
            faint = [(epoch, 100 * accuracy) for epoch, accuracy in known]
            axes.plot(
                *zip(*faint, strict=True), "o", linestyle=":", color=color, markersize=3.5, mfc="none", linewidth=0.8
            )
    if run.dense is not None and run.dense.accuracy is not None:
        axes.axhline(100 * run.dense.accuracy, color=style.INK, linestyle=(0, (5, 2)), linewidth=0.9, label="unpruned")
    axes.set_xlabel("epoch at which the ticket was drawn")
    axes.set_ylabel("test accuracy after retraining [%]")
    axes.grid()
    style.whole_epochs(axes)
    style.legend_above(figure, axes, width)
    return figure
