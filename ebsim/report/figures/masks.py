"""Figures of the mask distance: from epoch to epoch against the threshold, and between any two epochs.

The maps follow the paper's figure: viridis reversed (0 = yellow), dashed red lines at the identified epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ebsim.report.display.text import clip
from ebsim.report.figures import style
from ebsim.runs.load import Run
from ebsim.runs.schema import RatioMasks
from ebsim.tickets.emergence_rule import largest_distance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


PANEL = 1.6
"""Inches that a panel takes at least; the ratios of a trajectory that do not fit go on in the next line."""


@dataclass(frozen=True)
class Panel:
    trajectory: str
    search: str
    """The search precision, where there are several trajectories."""
    ratio: float
    masks: RatioMasks


def panels(run: Run) -> list[Panel]:
    """One per trajectory and ratio."""
    out = []
    for key, masks in run.masks.items():
        found = next((row.search_precision for row in run.rows if row.trajectory == key), None)
        search = clip(found or key) if len(run.masks) > 1 else ""
        for text, one in sorted(masks.ratios.items(), key=lambda item: float(item[0])):
            out.append(Panel(key, search, float(text), one))
    return out


def criterion(run: Run, masks: RatioMasks) -> list[float | None]:
    """What the Early-Bird rule compares with the threshold, per epoch; None while its window is not full."""
    rule, window = run.record.prune.rule, run.record.prune.window

    def known(epoch: int) -> Sequence[float]:
        if rule == "authors":
            return masks.map[epoch][:epoch] if epoch < len(masks.map) else ()
        return masks.distances[:epoch]

    return [largest_distance(rule, window, known(epoch)) for epoch in range(1, len(masks.distances) + 1)]


def _grid(run: Run, width: float, height: float | None) -> tuple[Figure, list[tuple[Any, Panel]]]:
    """Axes for every panel, a new line for each trajectory; square panels where `height` (inches) is None."""
    most = max(1, int(width / PANEL))
    lines: list[list[Panel]] = []
    for panel in panels(run):
        if not lines or lines[-1][0].trajectory != panel.trajectory or len(lines[-1]) == most:
            lines.append([])
        lines[-1].append(panel)
    columns = max(map(len, lines))
    width = width if columns > 1 else min(width, style.COLUMN)
    each = height or (width - 1.0) / columns + 0.3
    figure, grid = style.canvas(width, 0.3 + each * len(lines), len(lines), columns, sharex=True, sharey=True)
    pairs = []
    for line, axes_line in zip(lines, grid, strict=True):
        for number, axes in enumerate(axes_line):
            if number < len(line):
                pairs.append((axes, line[number]))
            else:
                axes.set_visible(False)
        if line[0].search:
            axes_line[0].set_ylabel(f"{line[0].search} search")
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
        style.whole_epochs(axes, both=height is None)
    return figure, pairs


def distance_data(run: Run) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    header = ("trajectory", "ratio", "epoch", "distance", "largest_in_window", "threshold", "emerged")
    return header, [
        (panel.trajectory, panel.ratio, number, distance, largest, run.record.prune.threshold, panel.masks.emerged)
        for panel in panels(run)
        for number, (distance, largest) in enumerate(
            zip(panel.masks.distances, criterion(run, panel.masks), strict=True), start=1
        )
    ]


def plot_distance(run: Run, width: float) -> Figure:
    prune = run.record.prune
    figure, grid = _grid(run, width, 1.6)
    top = max([prune.threshold, *(d for _, panel in grid for d in panel.masks.distances)])
    for number, (axes, panel) in enumerate(grid):
        epochs = range(1, len(panel.masks.distances) + 1)
        largest = criterion(run, panel.masks)
        axes.plot(epochs, panel.masks.distances, ".", color=style.FAINT, markersize=3, label="to the epoch before")
        axes.plot(
            epochs,
            [math.nan if v is None else v for v in largest],
            color=style.CYCLE[0],
            drawstyle="steps-mid",
            label=_criterion_name(prune.rule, prune.window),
        )
        axes.axhline(prune.threshold, color=style.INK, linewidth=0.8, linestyle=(0, (4, 2)))
        emerged = panel.masks.emerged
        if emerged is not None:
            axes.axvline(emerged, color=style.RED, linewidth=0.9, linestyle=(0, (4, 2)))
            axes.annotate(
                f"epoch {emerged}",
                (emerged, 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, -3),
                textcoords="offset points",
                color=style.RED,
                fontsize=7,
                va="top",
            )
        axes.set_title(f"p = {panel.ratio:g}" + (", not emerged" if emerged is None else ""))
        axes.set_ylim(0, 1.08 * top)
        axes.set_xlim(0, max(2, len(panel.masks.distances)))
        axes.grid(axis="y")
        if number == 0:
            axes.annotate(
                f"threshold {prune.threshold:g}",
                (1, prune.threshold),
                fontsize=6,
                xycoords=("axes fraction", "data"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="right",
            )
    figure.supylabel("mask distance", fontsize=8)
    style.legend_above(figure, grid[0][0], width)
    return figure


def _criterion_name(rule: str, window: int) -> str:
    return f"newest of {window} against the others" if rule == "authors" else f"largest of the last {window}"


def map_data(run: Run) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """The upper triangle: the maps are symmetric with a zero diagonal."""
    header = ("trajectory", "ratio", "epoch_a", "epoch_b", "distance")
    return header, [
        (panel.trajectory, panel.ratio, a, b, panel.masks.map[a][b])
        for panel in panels(run)
        for a in range(len(panel.masks.map))
        for b in range(a + 1, len(panel.masks.map))
    ]


def plot_map(run: Run, width: float) -> Figure:
    every = panels(run)
    top = map_top(panel.masks for panel in every)
    figure, grid = _grid(run, width, None)
    for axes, panel in grid:
        image = mark_map(axes, panel.masks, panel.ratio, top)
    threshold_bar(figure, image, [axes for axes, _ in grid], run.record.prune.threshold)
    figure.supylabel("epoch", fontsize=8)
    return figure


def map_top(every: Iterable[RatioMasks]) -> float:
    """Where the color scale of these maps ends: the largest distance, rounded up to a tenth."""
    largest = max((value for masks in every for line in masks.map for value in line), default=1.0)
    return min(1.0, max(0.1, math.ceil(10 * largest) / 10))


def mark_map(axes: Axes, masks: RatioMasks, ratio: float, top: float) -> Any:
    """One map, distances from 0 to `top`, with the epoch of the draw; returns the image for a color bar."""
    image = axes.imshow(masks.map, cmap="viridis_r", vmin=0, vmax=top, origin="upper", interpolation="none")
    axes.spines[:].set_visible(True)
    if masks.emerged is not None:
        for line in (axes.axhline, axes.axvline):
            line(masks.emerged, color="red", linewidth=1.0, linestyle=(0, (4, 2)))
    axes.set_title(f"p = {ratio:g}, " + ("no ticket" if masks.emerged is None else f"epoch {masks.emerged}"))
    return image


def threshold_bar(figure: Figure, image: Any, axes: Sequence[Axes], threshold: float) -> None:
    """The color bar of some maps, with the threshold in red."""
    bar = figure.colorbar(image, ax=list(axes), shrink=0.8, aspect=18, pad=0.02)
    bar.set_label("mask distance")
    bar.outline.set_linewidth(0.4)  # type: ignore[operator]
    bar.ax.axhline(threshold, color=style.RED, linewidth=1.0)
