"""Mask distance between any two epochs, for several searches side by side: the paper's heat maps of a whole grid.

A line of panels is one setting (the precision of the search, say), a panel one prune ratio of its dense training; of
the seeds the smallest is shown. Colors and lines as in the maps of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ebsim.report.display.text import as_typed, clip
from ebsim.report.figures import style
from ebsim.report.figures.masks import map_top, mark_map, threshold_bar
from ebsim.runs.load import Run
from ebsim.runs.schema import RatioMasks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ebsim.report.comparison.aggregate import Member

MOST = 12
"""Panels that are drawn; the CSV has all."""
FREE = ("prune.ratio", "precision.retrain", "seed", "methods")
"""Settings that no map depends on, or that a panel tells itself."""

Sheet = tuple[tuple[str, ...], list[tuple[object, ...]]]


@dataclass(frozen=True)
class MapPanel:
    """The masks of one ratio in one dense training."""

    name: str
    trajectory: str
    seed: int
    ratio: float
    masks: RatioMasks
    run: Run


def panels(members: Sequence[Member]) -> list[MapPanel]:
    """One per dense training and ratio among the runs of the smallest seed, by setting and ratio."""
    seed = min((member.seed for member in members), default=0)
    mine = [member for member in members if member.seed == seed]
    keys = [key for key in dict.fromkeys(key for member in mine for key in member.settings) if key not in FREE]
    differing = [key for key in keys if len({repr(member.settings.get(key)) for member in mine}) > 1]
    found: dict[tuple[str, float], MapPanel] = {}
    for member in mine:
        told = ", ".join(f"{key.rsplit('.', 1)[-1]} {as_typed(member.settings.get(key))}" for key in differing)
        for trajectory, masks in member.run.masks.items():
            searched = next((row.search_precision for row in member.run.rows if row.trajectory == trajectory), "")
            name = told or (searched if len(member.run.masks) > 1 else "")
            for ratio, one in masks.ratios.items():
                key = (trajectory, float(ratio))
                found.setdefault(key, MapPanel(clip(name), trajectory, seed, float(ratio), one, member.run))
    order = list(dict.fromkeys(panel.name for panel in found.values()))
    return sorted(found.values(), key=lambda panel: (order.index(panel.name), panel.trajectory, panel.ratio))


def data(every: Sequence[MapPanel]) -> Sheet:
    """The upper triangles: the maps are symmetric with a zero diagonal."""
    header = ("setting", "trajectory", "seed", "ratio", "emerged", "epoch_a", "epoch_b", "distance")
    return header, [
        (panel.name, panel.trajectory, panel.seed, panel.ratio, panel.masks.emerged, a, b, panel.masks.map[a][b])
        for panel in every
        for a in range(len(panel.masks.map))
        for b in range(a + 1, len(panel.masks.map))
    ]


def plot(every: Sequence[MapPanel], width: float) -> Figure:
    """A line of square panels for each setting."""
    shown = every[:MOST]
    lines: list[list[MapPanel]] = []
    most = max(1, int(width / 1.6))
    for panel in shown:
        if not lines or lines[-1][0].name != panel.name or len(lines[-1]) == most:
            lines.append([])
        lines[-1].append(panel)
    columns = max(map(len, lines))
    width = width if columns > 1 else min(width, style.COLUMN)
    each = (width - 1.0) / columns + 0.3
    figure, grid = style.canvas(width, 0.3 + each * len(lines), len(lines), columns)
    top = map_top(panel.masks for panel in shown)
    for line, axes_line in zip(lines, grid, strict=True):
        for axes, panel in zip(axes_line, line, strict=False):
            image = mark_map(axes, panel.masks, panel.ratio, top)
            style.whole_epochs(axes, both=True)
        for axes in axes_line[len(line) :]:
            axes.set_visible(False)
        if line[0].name:
            axes_line[0].set_ylabel(line[0].name)
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    threshold_bar(figure, image, [axes for line in grid for axes in line], shown[0].run.record.prune.threshold)
    figure.supylabel("epoch", fontsize=8)
    return figure
