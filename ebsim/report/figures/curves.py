"""Test accuracy and training loss over the epochs: each ticket leaves the dense line where it was drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ebsim.report.figures import style
from ebsim.report.tables.highlights import highlights
from ebsim.report.tables.training_lines import TrainingLine, training_lines
from ebsim.runs.load import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CROWD = 14
_MANY = 6
"""More lines than this are split into one pair of panels per prune ratio."""


def data(run: Run) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    header = ("line", "epoch_drawn", "epoch", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
    return header, [
        (line.name, line.drawn, p.epoch, p.lr, p.loss, p.accuracy, p.test_loss, p.test_accuracy)
        for line in training_lines(run)
        for p in line.points
    ]


def shown(run: Run) -> list[TrainingLine]:
    """All lines, or of a crowd the dense ones and those of the best rows."""
    every = training_lines(run)
    if len(every) <= _CROWD:
        return every
    best = highlights(run)
    return [line for line in every if line.ratio is None or line.name in best]


def plot(run: Run, width: float) -> Figure:
    every = shown(run)
    ratios = sorted({line.ratio for line in every if line.ratio is not None})
    if len(every) <= _MANY or len(ratios) < 2:
        parts = {"": [(line, line.name) for line in every]}
    else:  # one pair of panels per ratio, one color per method in all of them
        parts = {
            f", p = {ratio:g}": [(line, line.group) for line in every if line.ratio in (None, ratio)]
            for ratio in ratios
        }
    paint = style.colors(list(dict.fromkeys(name for part in parts.values() for _, name in part)))
    tallest = max(map(len, parts.values()))
    each = max(2.3, 0.3 + 0.145 * tallest)
    side_by_side = width > 1.5 * style.COLUMN
    lines, columns = (len(parts), 2) if side_by_side else (2 * len(parts), 1)
    figure, grid = style.canvas(width, each * lines, lines, columns, sharex=True)
    axes_list = [axes for row in grid for axes in row]
    for (left, right), (title, part) in zip(
        zip(axes_list[::2], axes_list[1::2], strict=True), parts.items(), strict=True
    ):
        _panel(left, part, paint, run, "test_accuracy")
        _panel(right, part, paint, run, "loss")
        left.set_title(f"Test accuracy [%]{title}")
        right.set_title(f"Training loss{title}")
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
        style.whole_epochs(axes)
    return figure


def _panel(axes: Axes, part: Sequence[tuple[TrainingLine, str]], paint: dict[str, Any], run: Run, key: str) -> None:
    factor = 100.0 if key == "test_accuracy" else 1.0
    ends = []
    for line, name in part:
        color, dash = paint[name]
        shown = [line.start, *line.points] if line.start else line.points
        points = [(p.epoch, factor * value) for p in shown if (value := getattr(p, key)) is not None]
        if not points:
            continue
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, color=color, linestyle=dash, zorder=2 if line.drawn is None else 3)
        if line.start is not None and getattr(line.start, key) is not None:
            axes.plot(
                xs[:1],
                ys[:1],
                "o",
                color=color,
                markersize=4.5,
                markeredgecolor="white",
                markeredgewidth=0.7,
                zorder=4,
            )
        ends.append((ys[-1], name, color))
    last = run.record.train.epochs
    axes.set_xlim(0, last)
    _limits(
        axes,
        [
            factor * value
            for line, _ in part
            for p in line.points
            if (value := getattr(p, key)) is not None and p.epoch > last / 5
        ],
        key,
    )
    for epoch in run.record.train.milestones:
        if epoch < last:
            axes.axvline(epoch, color=style.GRID, linewidth=0.8, zorder=0)
            axes.annotate(
                "lr ↓",
                (epoch, 0),
                xycoords=("data", "axes fraction"),
                xytext=(2, 3),
                textcoords="offset points",
                fontsize=6,
                color=style.FAINT,
            )
    if key == "test_accuracy":
        style.end_labels(axes, ends, last)


def _limits(axes: Axes, settled: list[float], key: str) -> None:
    """Accuracy: from just under what is seen after the first fifth of the training. Loss: logarithmic."""
    if key == "loss":
        if settled and min(settled) > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
        axes.grid(axis="y")
        return
    if settled:
        low, high = min(settled), max(settled)
        margin = max(0.06 * (high - low), 0.5)
        axes.set_ylim(max(0.0, low - margin), min(100.5, high + margin))
    axes.grid(axis="y")
