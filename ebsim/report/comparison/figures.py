"""The figures of a grid: accuracy against modelled energy over all lines, and one line chart per axis.

Bars are 95 % t-intervals over seeds; a line that is one seed has none. Looks and file formats are the report's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ebsim.report.comparison import draw_epoch
from ebsim.report.comparison.aggregate import Line
from ebsim.report.comparison.table import Entry, name
from ebsim.report.display.text import as_typed, csv, plain
from ebsim.report.display.value import scale
from ebsim.report.figures import style
from ebsim.report.tables.highlights import pareto

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Sheet = tuple[tuple[str, ...], list[tuple[object, ...]]]
_MOST = 12  # points that can still be labelled
_MARKERS = ("o", "s", "^", "D")  # one for each of the report's dashes
_POINT: dict[str, Any] = {
    "marker": "o", "markersize": 4, "linestyle": "none", "elinewidth": 0.8, "capsize": 2, "zorder": 3,
}  # fmt: skip


def make(every: Sequence[Entry], axes: dict[str, list[Any]]) -> dict[str, bytes]:
    """{file name: bytes}: SVG, PNG and CSV of each figure; axes with one value, and the seed, have no chart."""
    them = [entry.line for entry in every if entry.line.finished]
    if not them:
        return {}
    out = _files("accuracy_energy", partial(_plane, them), _plane_data(them))
    if draw_epoch.drawn(them):
        out |= _files("draw_epoch", partial(draw_epoch.draw, them), draw_epoch.data(them))
    for key, values in axes.items():
        if key != "seed" and len(values) > 1:
            file = f"by_{re.sub(r'[^A-Za-z0-9]+', '_', key)}"
            out |= _files(file, partial(_chart, them, key, values), _chart_data(them, key, values))
    return out


def _files(file: str, draw: Callable[[], Figure], sheet: Sheet) -> dict[str, bytes]:
    with style.styled():
        figure = draw()
        style.settle(figure)
        return {f"{file}.svg": style.svg(figure), f"{file}.png": style.png(figure), f"{file}.csv": csv(*sheet).encode()}


def _pair(line: Line, metric: str) -> tuple[float, float]:
    """Mean and half-width of the interval, 0 where there is no spread."""
    sample = line.sample(metric)
    assert sample is not None
    return sample.mean, sample.half or 0.0


def _front(them: Sequence[Line]) -> list[bool]:
    return pareto([(_pair(line, "joules")[0], _pair(line, "accuracy")[0]) for line in them])


def _plane_data(them: Sequence[Line]) -> Sheet:
    header = ("line", "n", "joules", "joules_half", "accuracy", "accuracy_half", "on_front")
    return header, [
        (name(line, them), len(line.finished), *_pair(line, "joules"), *_pair(line, "accuracy"), kept)
        for line, kept in zip(them, _front(them), strict=True)
    ]


def _plane(them: Sequence[Line]) -> Figure:
    own = scale((_pair(line, "joules")[0] for line in them), "J")
    labels = [name(line, them) for line in them]
    paint = style.colours(labels)
    figure, grid = style.canvas(style.PAGE, 3.2)
    axes, points = grid[0][0], []
    for line, label in zip(them, labels, strict=True):
        (x, wide), (y, high) = _pair(line, "joules"), _pair(line, "accuracy")
        points.append((x / own.factor, 100 * y))
        colour, dash = paint[label]
        look = _POINT | {"color": colour, "marker": _MARKERS[style.DASHES.index(dash)], "label": label}
        axes.errorbar(*points[-1], xerr=wide / own.factor, yerr=100 * high, **look)
    front = sorted(point for point, kept in zip(points, _front(them), strict=True) if kept)
    axes.plot(*zip(*front, strict=True), color=style.FAINT, linewidth=0.8, zorder=1, drawstyle="steps-post")
    axes.set_xlabel(f"modelled training energy [{own.unit}]")
    axes.set_ylabel("test accuracy, last epoch [%]")
    _possible(axes)
    axes.grid()
    if len(them) > _MOST:
        figure.legend(loc="outside right upper")
    else:
        texts = [(x, y, label, paint[label][0]) for (x, y), label in zip(points, labels, strict=True)]
        style.point_labels(axes, texts)
    return figure


def _possible(axes: Axes) -> None:
    """An interval of two seeds can leave what an accuracy can be; the axis does not follow it there."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0), min(high, 100))


def _curves(them: Sequence[Line], key: str, values: Sequence[Any]) -> dict[str, list[tuple[int, Line]]]:
    """What is joined to one curve, by name: (place on the axis, line); what does not depend on the axis is flat."""
    groups: dict[str, list[tuple[int, Line]]] = {}
    for line in them:
        for place, value in enumerate(values):
            if any(own.get(key) == value for own in line.under):
                groups.setdefault(name(line, them, without=key), []).append((place, line))
    return groups


def _chart_data(them: Sequence[Line], key: str, values: Sequence[Any]) -> Sheet:
    header = ("line", key, "n", "accuracy", "accuracy_half", "joules", "joules_half")
    return header, [
        (label, as_typed(values[place]), len(line.finished), *_pair(line, "accuracy"), *_pair(line, "joules"))
        for label, points in _curves(them, key, values).items()
        for place, line in points
    ]


def _chart(them: Sequence[Line], key: str, values: Sequence[Any]) -> Figure:
    """Accuracy above, modelled energy below, against the values of one axis."""
    groups = _curves(them, key, values)
    paint = style.colours(list(groups))
    own = scale((_pair(line, "joules")[0] for line in them), "J")
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    at = [float(value) if numbers else float(place) for place, value in enumerate(values)]
    aside = 0.008 * (max(at) - min(at))  # bars of neighbours stand side by side
    figure, grid = style.canvas(style.PAGE, 3.8, 2, 1, sharex=True)
    panels = (("accuracy", 0.01, "accuracy [%]"), ("joules", own.factor, f"modelled energy [{own.unit}]"))
    for axes, (metric, factor, heading) in zip(grid[:, 0], panels, strict=True):
        for turn, (label, points) in enumerate(groups.items()):
            shift = aside * (turn - (len(groups) - 1) / 2)
            means, halves = zip(*(_pair(line, metric) for _, line in points), strict=True)
            axes.errorbar([at[place] + shift for place, _ in points], [mean / factor for mean in means],
                          yerr=[half / factor for half in halves], color=paint[label][0],
                          label=label, **_POINT | {"linestyle": paint[label][1]})  # fmt: skip
        axes.set_ylabel(heading)
        axes.grid()
    _possible(grid[0][0])
    grid[-1][0].set_xticks(at, [as_typed(value) for value in values])
    grid[-1][0].set_xlabel(plain(key))
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside right upper")
    return figure
