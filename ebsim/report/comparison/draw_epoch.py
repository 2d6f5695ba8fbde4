"""Accuracy of a ticket against the epoch at which it was drawn, over seeds: the paper's Figure 1 of a whole grid.

A curve joins the draws of one method, ratio and setting; the Early-Bird rule's own ticket is a star at the mean of its
epochs, the dense network a dashed line. Bars are 95 % t-intervals over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ebsim.report.comparison.aggregate import Replicates
from ebsim.report.comparison.stats import Sample
from ebsim.report.comparison.table import precision, shown_axes
from ebsim.report.display.text import as_typed, plain
from ebsim.report.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AT_EPOCH, RULE, DENSE = "-at-epoch", "eb-train", "dense"


def drawn(every: Sequence[Replicates]) -> list[Replicates]:
    """The lines of tickets that were drawn at given epochs."""
    return [line for line in every if AT_EPOCH in line.method and line.finished]


def curves(every: Sequence[Replicates]) -> dict[str, list[Replicates]]:
    """Draws by what they have in common, in order of their epochs."""
    found: dict[str, list[Replicates]] = {}
    for line in drawn(every):
        found.setdefault(_name(line, every), []).append(line)
    return {name: sorted(lines, key=lambda line: _mean(line, "epoch_drawn")) for name, lines in found.items()}


def data(every: Sequence[Replicates]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """One row per point, fractions; the rule's own tickets and the dense network with them."""
    header = ("curve", "epoch_drawn", "n", "accuracy", "accuracy_sd", "accuracy_half")
    rows = [_point(name, line) for name, lines in curves(every).items() for line in lines]
    others = [line for line in every if line.method in (RULE, DENSE) and line.finished]
    return header, [*rows, *(_point(f"{line.method}, {_name(line, every)}", line) for line in others)]


def plot(every: Sequence[Replicates], width: float) -> Figure:
    """Accuracy over the epoch of the draw."""
    groups = curves(every)
    paint = style.colors(list(groups))
    figure, grid = style.canvas(width, 3.2)
    axes = grid[0][0]
    epochs = [_mean(line, "epoch_drawn") for lines in groups.values() for line in lines]
    aside = 0.006 * (max(epochs) - min(epochs))  # bars of neighbors stand side by side
    for turn, (name, lines) in enumerate(groups.items()):
        shift = aside * (turn - (len(groups) - 1) / 2)
        color, dash = paint[name]
        points = [(_mean(line, "epoch_drawn") + shift, *_percent(line)) for line in lines]
        x, y, half = zip(*points, strict=True)
        axes.errorbar(x, y, yerr=half, color=color, linestyle=dash, marker="o", markersize=3.5, capsize=2,
                      elinewidth=0.8, label=name)  # fmt: skip
    for line in every:
        name = _name(line, every)
        if line.method == RULE and line.finished and name in paint:
            at, bar = _percent(line)
            look: dict[str, Any] = {"marker": "*", "markersize": 10, "mec": style.INK, "mew": 0.5, "zorder": 4}
            axes.errorbar([_mean(line, "epoch_drawn")], [at], yerr=[bar], color=paint[name][0], capsize=2, **look)
        if line.method == DENSE and line.finished:
            axes.axhline(_percent(line)[0], color=style.INK, linestyle=(0, (5, 2)), linewidth=0.9)
    axes.set_xlabel("epoch at which the ticket was drawn (star: by the rule; dashed: dense)")
    axes.set_ylabel("test accuracy after retraining [%]")
    axes.grid()
    style.whole_epochs(axes)
    style.legend_above(figure, axes, width)
    return figure


def _name(line: Replicates, every: Sequence[Replicates]) -> str:
    """What tells curves apart: ratio, how the channels were chosen, precision, and the axes."""
    parts = [] if line.ratio is None else [f"p = {line.ratio:g}"]
    kind = line.method.replace("prune" + AT_EPOCH, "").replace(AT_EPOCH, " channels").strip("-")
    parts += [kind] if AT_EPOCH in line.method and kind else []
    compared = drawn(every)
    if len({precision(other) for other in compared}) > 1:
        parts.append(precision(line))
    axes = [key for key in shown_axes(every) if key in line.settings]
    parts += [f"{key.rsplit('.', 1)[-1]} {as_typed(line.settings[key])}" for key in axes if key != "prune.ratio"]
    return plain(", ".join(parts)) or "all"


def _sample(line: Replicates, metric: str) -> Sample:
    sample = line.sample(metric)
    assert sample is not None  # finished lines only
    return sample


def _mean(line: Replicates, metric: str) -> float:
    return _sample(line, metric).mean


def _percent(line: Replicates) -> tuple[float, float]:
    found = _sample(line, "accuracy")
    return 100 * found.mean, 100 * (found.half or 0.0)


def _point(name: str, line: Replicates) -> tuple[Any, ...]:
    found, at = _sample(line, "accuracy"), line.sample("epoch_drawn")
    return name, None if at is None else at.mean, len(line.finished), found.mean, found.sd, found.half
