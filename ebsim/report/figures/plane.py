"""Scatter plot of accuracy against modelled energy, with bands, labels and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ebsim.report.display.text import clip
from ebsim.report.display.value import scale
from ebsim.report.figures import style
from ebsim.report.figures.marks import HUES, SHAPES, is_baseline, marks, tint
from ebsim.report.tables.highlights import pareto

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW = 8
"""Up to as many points are named beside themselves, more by a legend."""


@dataclass(frozen=True)
class PlanePoint:
    """energy in joules, accuracy as a fraction; each band is (low, high) or None where none is known."""

    name: str
    group: str
    """Who it is without its ratio."""
    ratio: float | None
    joules: float
    accuracy: float
    joules_band: tuple[float, float] | None = None
    accuracy_band: tuple[float, float] | None = None


def on_front(points: Sequence[PlanePoint]) -> list[bool]:
    return pareto([(point.joules, point.accuracy) for point in points])


def plot(points: Sequence[PlanePoint], width: float) -> Figure:
    """Each point is the group "point-N" of the SVG, N its place among the points."""
    own = scale((point.joules for point in points), "J")
    places = [(point.joules / own.factor, 100 * point.accuracy) for point in points]
    looks = marks([(point.group, point.ratio) for point in points])
    few = len(points) <= FEW
    groups = dict.fromkeys(point.group for point in points)
    legend_lines = 0 if few else -(-(len(groups) + 1) // max(1, int(width / 1.6)))
    figure, grid = style.canvas(width, 2.6 + (0 if few else 0.3) + 0.15 * legend_lines)
    axes = grid[0][0]
    kept = on_front(points)
    front = sorted(place for place, good in zip(places, kept, strict=True) if good)
    axes.plot(*zip(*front, strict=True), color=style.FAINT, linewidth=0.8, zorder=1, drawstyle="steps-post")
    _limits(axes, points, places, own.factor)
    if not few:
        _join(axes, points, places)
    for number, (point, (x, y), look, good) in enumerate(zip(points, places, looks, kept, strict=True)):
        if few or good:
            _bands(axes, point, x, y, own.factor, look.color)
        face = "none" if look.hollow else look.color
        axes.plot([x], [y], look.shape, color=look.color, markerfacecolor=face, markeredgecolor=style.INK,
                  markeredgewidth=0.5, markersize=5.5, zorder=4, gid=f"point-{number}")  # fmt: skip
    axes.set_xlabel(f"modelled training energy [{own.unit}]")
    axes.set_ylabel("test accuracy, last epoch [%]")
    axes.grid()
    if few:
        style.point_labels(axes, [(x, y, p.name, style.INK) for (x, y), p in zip(places, points, strict=True)])
    else:
        _legend(figure, points, width)
    return figure


def _limits(axes: Axes, points: Sequence[PlanePoint], places: Sequence[tuple[float, float]], factor: float) -> None:
    """Room for points and bands; an accuracy lies between 0 and 100, whatever an interval of two seeds says."""
    xs = [x for x, _ in places] + [end / factor for p in points for end in p.joules_band or ()]
    ys = [y for _, y in places] + [min(100.0, max(0.0, 100 * end)) for p in points for end in p.accuracy_band or ()]
    if min(xs) > 0 and max(xs) / min(xs) > 12:
        axes.set_xscale("log")
    elif len(points) > FEW and min(xs) > 0.3 * max(xs):  # a crowd needs the room that nought would take
        slack = 0.08 * (max(xs) - min(xs))
        axes.set_xlim(min(xs) - slack, max(xs) + slack)
    else:
        axes.set_xlim(0, 1.1 * max(xs) or 1.0)
    margin = max(0.15 * (max(ys) - min(ys)), 0.25)
    axes.set_ylim(max(min(ys) - margin, -1.0), min(max(ys) + margin, 101.0))


def _join(axes: Axes, points: Sequence[PlanePoint], places: Sequence[tuple[float, float]]) -> None:
    """A thin line through the ratios of one group, in their order."""
    for turn, group in enumerate(dict.fromkeys(p.group for p in points if not is_baseline(p.group))):
        members = sorted((p.ratio or 0.0, place) for p, place in zip(points, places, strict=True) if p.group == group)
        xs, ys = zip(*(place for _, place in members), strict=True)
        axes.plot(xs, ys, color=HUES[turn % len(HUES)], linewidth=0.5, alpha=0.6, zorder=2)


def _bands(axes: Axes, point: PlanePoint, x: float, y: float, factor: float, color: str) -> None:
    look: dict[str, Any] = {"color": style.FAINT, "linewidth": 0.7, "zorder": 3}
    if point.joules_band:
        low, high = (end / factor for end in point.joules_band)
        axes.plot([low, high], [y, y], **look)
    if point.accuracy_band:
        low, high = (min(100.0, max(0.0, 100 * end)) for end in point.accuracy_band)
        axes.plot([x, x], [low, high], **look)


def _legend(figure: Figure, points: Sequence[PlanePoint], width: float) -> None:
    """Shape and hue of each group, then the shades of the ratios."""
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {"linestyle": "", "markersize": 5, "markeredgecolor": style.INK, "markeredgewidth": 0.5}
    groups = list(dict.fromkeys(point.group for point in points))
    shown = marks([(group, None) for group in groups])
    handles = [
        Line2D([], [], marker=mark.shape, color=mark.color,
               markerfacecolor="none" if mark.hollow else mark.color, label=clip(group, 28), **look)
        for group, mark in zip(groups, shown, strict=True)
    ]  # fmt: skip
    ratios = sorted({point.ratio for point in points if point.ratio is not None})
    if len(ratios) > 1:
        shades = [tint(style.FAINT, place / (len(ratios) - 1)) for place in range(len(ratios))]
        handles += [
            Line2D([], [], marker=SHAPES[0], color=shade, label=f"p = {ratio:g}", **look)
            for ratio, shade in zip(ratios, shades, strict=True)
        ]
    figure.legend(handles=handles, loc="outside lower center", ncols=max(1, int(width / 1.5)), handletextpad=0.1)
