"""From the dense baseline's energy to a ticket's, step by step: a waterfall for each of the best rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ebsim.report.display.text import clip
from ebsim.report.display.value import Scale, scale
from ebsim.report.figures import style
from ebsim.report.tables.highlights import highlights
from ebsim.report.tables.saving_steps import SavingSteps, in_order, records, saving_steps
from ebsim.runs.load import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMALL = 2e-3
"""Steps of a smaller share of the baseline than this in every panel are in the CSV only."""


def shown(run: Run) -> list[SavingSteps]:
    """Those of the best rows."""
    return list(saving_steps(run, tuple(highlights(run))))


def data(run: Run) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    return records(run, highlights(run))


def plot(run: Run, width: float) -> Figure:
    every = shown(run)
    own = scale((one.start for one in every), "J")
    names = _names(every)
    columns = max(1, min(len(every), int(width / 2.1)))
    lines = -(-len(every) // columns)
    height = lines * (0.62 + 0.2 * (len(names) + 2))
    figure, grid = style.canvas(width, height, lines, columns, sharex=True, sharey=True)
    axes_list = [axes for row in grid for axes in row]
    for axes, one in zip(axes_list, every, strict=False):
        _panel(axes, one, names, own)
    for axes in axes_list[len(every) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel(f"modelled training energy [{own.unit}]")
    return figure


def _names(every: Sequence[SavingSteps]) -> list[str]:
    return in_order(step.name for one in every for step in one.steps if abs(step.joules) > SMALL * one.start)


def _panel(axes: Axes, one: SavingSteps, names: Sequence[str], own: Scale) -> None:
    level = one.start / own.factor
    _bar(axes, 0, 0.0, level, style.FAINT, f"{own.value(one.start)}")
    for step in one.steps:
        after = level + step.joules / own.factor
        if step.name in names:
            color = style.SAVED if step.joules <= 0 else style.SPENT
            sign = "+" if step.joules > 0 else "−" if step.joules < 0 else ""
            text = f"{sign}{own.value(abs(step.joules))}"
            _bar(axes, names.index(step.name) + 1, level, after, color, text, hatch="" if step.joules <= 0 else "////")
        level = after
    _bar(axes, len(names) + 1, 0.0, one.end / own.factor, style.CYCLE[0], f"{own.value(one.end)}")
    labels = ["dense baseline", *names, "this row"]
    axes.set_yticks(range(len(labels)), map(clip, labels))
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_title(clip(one.row))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_xlim(0, 1.28 * max(one.start, one.end) / own.factor or 1.0)


def _bar(axes: Axes, place: int, begin: float, end: float, color: str, text: str, hatch: str = "") -> None:
    left, right = min(begin, end), max(begin, end)
    axes.barh(place, right - left, left=left, height=0.7, color=color, hatch=hatch, edgecolor="white", linewidth=0.4)
    axes.annotate(
        text, (right, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=6, annotation_clip=False
    )
