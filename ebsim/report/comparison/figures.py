"""The figures of a grid or comparison: all lines in the accuracy-energy plane, and small multiples per axis.

Bars of accuracies are 95 % t-intervals over seeds; a line that is one seed has none. Bars of energies are the model's
90 % band relative to dense. Looks and file formats are the report's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ebsim.report.comparison import draw_epoch, mask_maps
from ebsim.report.comparison.aggregate import Member, Replicates
from ebsim.report.comparison.page import PageFigure
from ebsim.report.comparison.table import ComparedLine, name
from ebsim.report.display.text import as_typed, plain
from ebsim.report.display.value import scale
from ebsim.report.figures import page_forms, plane, style
from ebsim.report.figures.marks import SHAPES, is_baseline
from ebsim.report.figures.plane import PlanePoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Sheet = tuple[tuple[str, ...], list[tuple[object, ...]]]
SEED = "seed"
PANELS = 9
"""Small multiples of an axis at most; more lines than that share one pair of panels."""


def page_figures(
    every: Sequence[ComparedLine],
    axes: Mapping[str, Sequence[Any]],
    told: Mapping[str, str],
    members: Sequence[Member] = (),
) -> list[PageFigure]:
    """The plane, a chart for each axis of several values but the seed, and the mask distances of the members.

    told: line -> all its numbers.
    """
    them = [entry.line for entry in every if entry.line.finished]
    if not them:
        return []
    shown = points(them)
    crowded = f" With more than {plane.FEW} points only those on the step line have bars."
    out = [
        page_figure(
            "accuracy_energy",
            "Accuracy against modelled energy",
            "Up and to the left is better; the step line joins what no other line beats. Upright bars: 95 % "
            "interval over the seeds. Level bars: 90 % band of the modelled energy relative to dense. Shape is "
            "the method, shade the prune ratio; a pointer over a point tells all its numbers."
            + crowded
            * (len(shown) > plane.FEW),
            partial(plane.plot, shown),
            _plane_data(them, shown),
            {f"point-{number}": told.get(point.name, point.name) for number, point in enumerate(shown)},
        )
    ]
    if draw_epoch.drawn(them):
        out.append(
            page_figure(
                "draw_epoch",
                "Accuracy against the epoch of the draw",
                "A curve joins the draws of one method, ratio and setting; star: the ticket of the rule, at the "
                "mean of its epochs; dashed: dense. Bars: 95 % interval over the seeds.",
                partial(draw_epoch.plot, them),
                draw_epoch.data(them),
            )
        )
    for key, values in axes.items():
        if key != SEED and len(values) > 1:
            out.append(
                page_figure(
                    f"by_{re.sub(r'[^A-Za-z0-9]+', '_', key)}",
                    f"Along {plain(key)}",
                    "Accuracy above, modelled energy below, one column per line of the table without this axis; "
                    "bars: 95 % interval over the seeds.",
                    partial(_chart, them, key, values),
                    _chart_data(them, key, values),
                )
            )
    if maps := mask_maps.panels(members):
        out.append(
            page_figure(
                "mask_maps",
                "Mask distance between any two epochs",
                f"Seed {maps[0].seed}. Epoch 0 is the untrained network. Dashed red: the epoch at which the ticket was "
                "identified; the red mark on the color bar is the threshold."
                + (f" {mask_maps.MOST} of {len(maps)} maps; the CSV has all." if len(maps) > mask_maps.MOST else ""),
                partial(mask_maps.plot, maps),
                mask_maps.data(maps),
            )
        )
    return out


def page_figure(
    name: str,
    title: str,
    caption: str,
    plot: Callable[[float], Figure],
    sheet: Sheet,
    details: Mapping[str, str] | None = None,
    wide: bool = True,
) -> PageFigure:
    """A figure drawn and written once for the page."""
    made = page_forms(plot, style.PAGE if wide else style.COLUMN, sheet)
    return PageFigure(name, title, caption, made, details or {}, wide, plot)


def _pair(line: Replicates, metric: str) -> tuple[float, float]:
    """Mean and half-width of the interval, 0 where there is no spread."""
    sample = line.sample(metric)
    assert sample is not None
    return sample.mean, sample.half or 0.0


def points(them: Sequence[Replicates]) -> list[PlanePoint]:
    """The lines with an accuracy. An energy's band is that of its ratio to the dense row of its first run."""
    out = []
    for line in them:
        joules, accuracy = _pair(line, "joules")[0], _pair(line, "accuracy")
        saving = next(iter(line.finished.values())).energy.saving
        band = None
        if saving is not None and saving.value < 1 and not is_baseline(line.method):
            base = joules / (1 - saving.value)
            band = (base * (1 - saving.high), base * (1 - saving.low))
        spread = (accuracy[0] - accuracy[1], accuracy[0] + accuracy[1]) if accuracy[1] else None
        group = name(line, them, without="prune.ratio") if line.ratio is not None else name(line, them)
        out.append(PlanePoint(name(line, them), group, line.ratio, joules, accuracy[0], band, spread))
    return out


def _plane_data(them: Sequence[Replicates], shown: Sequence[PlanePoint]) -> Sheet:
    header = ("line", "n", "joules", "low_against_dense", "high_against_dense", "accuracy", "accuracy_half", "on_front")
    return header, [
        (p.name, len(line.finished), p.joules, *(p.joules_band or (None, None)), *_pair(line, "accuracy"), kept)
        for line, p, kept in zip(them, shown, plane.on_front(shown), strict=True)
    ]


def _curves(them: Sequence[Replicates], key: str, values: Sequence[Any]) -> dict[str, list[tuple[int, Replicates]]]:
    """What is joined to one curve, by name: (place on the axis, line); what does not depend on the axis is flat."""
    groups: dict[str, list[tuple[int, Replicates]]] = {}
    for line in them:
        for place, value in enumerate(values):
            if any(own.get(key) == value for own in line.under):
                groups.setdefault(name(line, them, without=key), []).append((place, line))
    return groups


def _chart_data(them: Sequence[Replicates], key: str, values: Sequence[Any]) -> Sheet:
    header = ("line", key, "n", "accuracy", "accuracy_half", "joules", "joules_half")
    return header, [
        (label, as_typed(values[place]), len(line.finished), *_pair(line, "accuracy"), *_pair(line, "joules"))
        for label, found in _curves(them, key, values).items()
        for place, line in found
    ]


def _chart(them: Sequence[Replicates], key: str, values: Sequence[Any], width: float) -> Figure:
    """Small multiples: a column per line, accuracy above, modelled energy below; flat lines are grey in all."""
    groups = _curves(them, key, values)
    flat = {label: found for label, found in groups.items() if is_baseline(label)}
    own_groups = {label: found for label, found in groups.items() if label not in flat} or groups
    single = len(own_groups) > PANELS or width < 2 * style.COLUMN - 0.5
    panels = [own_groups] if single else [{label: found} for label, found in own_groups.items()]
    columns = min(len(panels), max(1, int(width / 1.3)))
    lines = -(-len(panels) // columns)
    figure, grid = style.canvas(width, 2.6 * lines + 0.4, 2 * lines, columns, sharex=True, sharey="row")
    own = scale((_pair(line, "joules")[0] for line in them), "J")
    paint = style.colors(list(own_groups))
    for number, panel in enumerate(panels):
        pair = (grid[2 * (number // columns)][number % columns], grid[2 * (number // columns) + 1][number % columns])
        for axes, metric, factor in zip(pair, ("accuracy", "joules"), (0.01, own.factor), strict=True):
            for label, found in {**flat, **panel}.items():
                color, dash = paint.get(label, (style.FAINT, "-"))
                shape = SHAPES[list(own_groups).index(label) % len(SHAPES)] if label in own_groups else "none"
                _curve(
                    axes, found, metric, factor, {"color": color, "linestyle": dash, "marker": shape, "label": label}
                )
            axes.grid()
        if not single:
            pair[0].set_title("\n".join(_words(next(iter(panel)), 22)), fontsize=7)
    for number in range(len(panels), lines * columns):
        for half in (0, 1):
            grid[2 * (number // columns) + half][number % columns].set_visible(False)
    for row in range(lines):
        grid[2 * row][0].set_ylabel("accuracy [%]")
        grid[2 * row + 1][0].set_ylabel(f"energy [{own.unit}]")
    for axes in grid[-1]:
        axes.set_xticks(range(len(values)), [plain(as_typed(value))[:14] for value in values])
        axes.set_xlabel(plain(key)[:24])
    if single:
        style.legend_above(figure, grid[0][0], width)
    return figure


def _curve(
    axes: Any, found: Sequence[tuple[int, Replicates]], metric: str, factor: float, look: dict[str, Any]
) -> None:
    """One line over the values of the axis; an interval ends where an accuracy can (0 and 100 %)."""
    found = sorted(found, key=lambda pair: pair[0])
    places = [place for place, _ in found]
    means, halves = zip(*(_pair(line, metric) for _, line in found), strict=True)
    top = 1.0 if metric == "accuracy" else float("inf")
    below = [min(half, mean) / factor for mean, half in zip(means, halves, strict=True)]
    above = [min(half, max(0.0, top - mean)) / factor for mean, half in zip(means, halves, strict=True)]
    middles = [mean / factor for mean in means]
    axes.errorbar(places, middles, yerr=[below, above], markersize=4, elinewidth=0.8, capsize=2, zorder=3, **look)


def _words(text: str, width: int) -> list[str]:
    """A heading in at most three lines."""
    from textwrap import wrap

    return wrap(text, width)[:3] or [""]
