"""Where the modelled joules go: by stage, by layer and component, and against accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ebsim.report.display.text import clip, plain
from ebsim.report.display.value import percent, scale
from ebsim.report.figures import style
from ebsim.report.tables import row_labels
from ebsim.report.tables.energy import part_names, split
from ebsim.report.tables.per_layer import LayerCost, per_layer
from ebsim.runs.load import Run
from ebsim.runs.schema import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import PathPatch

_STAGES = {"search": "#E69F00", "retrain": "#0072B2", "dense": "#999999"}
_COMPONENTS = {
    "mac": "#0072B2",
    "register": "#56B4E9",
    "interconnect": "#CC79A7",
    "buffer": "#E69F00",
    "dram": "#D55E00",
    "vector": "#009E73",
    "quantiser": "#F0E442",
    "static": "#999999",
}
_CROWD = 8
"""More points than this in the accuracy-energy plane get a legend instead of direct labels."""
_SPARE = ("#009E73", "#F0E442", "#CC79A7", "#56B4E9", "#8c564b", "#7f7f7f")


def _paint(keys: Sequence[str], known: Mapping[str, str]) -> dict[str, str]:
    spare = iter([c for c in _SPARE if c not in {known.get(key) for key in keys}] * 4)
    return {key: known.get(key) or next(spare) for key in keys}


def stage_data(run: Run) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    header = ("row", "stage", "joules")
    return header, [
        (name, stage, joules)
        for row, name in zip(run.rows, row_labels.short(run.rows), strict=True)
        for stage, joules in split(row, "stage").items()
    ]


def draw_stages(run: Run) -> Figure:
    """One bar per row, the search cost inside the total; the saving against dense at its end."""
    parts = [split(row, "stage") for row in run.rows]
    keys = part_names(parts)
    paint = _paint(keys, _STAGES)
    own = scale((row.energy.joules for row in run.rows), "J")
    figure, grid = style.canvas(style.COLUMN, 0.75 + 0.27 * len(run.rows))
    axes = grid[0][0]
    for key in keys:
        lefts = [sum(part.get(k, 0.0) for k in keys[: keys.index(key)]) / own.factor for part in parts]
        axes.barh(
            range(len(parts)),
            [part.get(key, 0.0) / own.factor for part in parts],
            left=lefts,
            height=0.72,
            color=paint[key],
            edgecolor="white",
            linewidth=0.5,
            label=clip(key),
        )
    longest = max(row.energy.joules for row in run.rows) / own.factor or 1.0
    for place, row in enumerate(run.rows):
        saving = row.saving_vs_dense
        text = f"{own.value(row.energy.joules)}" + (f"  −{percent(saving, 0)}" if saving and saving > 0 else "")
        axes.annotate(
            text,
            (row.energy.joules / own.factor, place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    axes.set_yticks(range(len(parts)), map(clip, row_labels.short(run.rows)))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(parts) - 0.5, -0.5)
    axes.set_xlim(0, 1.22 * longest)
    axes.set_xlabel(f"modelled training energy [{own.unit}]")
    axes.grid(axis="x")
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside upper right",
        ncols=min(3, len(keys)),
        handlelength=1,
        columnspacing=1,
    )
    return figure


def layer_data(run: Run) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    header = ("row", "layer", "component", "joules_per_image")
    return header, [
        (name, cost.layer, component, joules)
        for name, network in per_layer(run).items()
        for cost in network.layers
        for component, joules in cost.joules.items()
    ]


def draw_layers(run: Run) -> Figure:
    """One stacked bar per convolution or linear layer, in network order; dense on top, tickets below it."""
    networks = per_layer(run)
    every = {name: network.layers for name, network in networks.items()}
    order = _layer_order(every)
    keys = part_names(cost.joules for costs in every.values() for cost in costs)
    paint = _paint(keys, _COMPONENTS)
    own = scale((sum(cost.joules.values()) for costs in every.values() for cost in costs), "J")
    total = scale((network.total for network in networks.values()), "J")
    figure, grid = style.canvas(style.PAGE, 1.2 + 1.0 * len(every), len(every), 1, sharex=True, sharey=True)
    for axes, (name, costs) in zip(grid[:, 0], every.items(), strict=True):
        _layer_panel(axes, costs, order, keys, paint, own.factor)
        whole = total.value(networks[name].total)
        axes.set_title(f"{clip(name)}: {whole} {total.unit} per training image", pad=2)
        axes.grid(axis="y")
    highest = max(sum(cost.joules.values()) for costs in every.values() for cost in costs)
    grid[-1][0].set(xlim=(-0.7, len(order) - 0.3), ylim=(0, 1.05 * highest / own.factor or 1.0))
    _layer_ticks(grid[:, 0], order)
    figure.supylabel(f"energy per training image [{own.unit}]", fontsize=8)
    figure.legend(
        *grid[0][0].get_legend_handles_labels(),
        loc="outside upper right",
        ncols=min(8, len(keys)),
        handlelength=1,
        columnspacing=1,
    )
    return figure


def _layer_order(every: Mapping[str, Sequence[LayerCost]]) -> list[str]:
    """Layers of the largest network, in its order; a ticket's layers are among them."""
    longest = max(every.values(), key=len)
    order = dict.fromkeys(cost.layer for cost in longest)
    for costs in every.values():
        order.update(dict.fromkeys(cost.layer for cost in costs))
    return list(order)


def _layer_panel(
    axes: Axes,
    costs: Sequence[LayerCost],
    order: Sequence[str],
    keys: Sequence[str],
    paint: Mapping[str, str],
    factor: float,
) -> None:
    places = [order.index(cost.layer) for cost in costs]
    floor = [0.0] * len(costs)
    for key in keys:
        tops = [low + cost.joules.get(key, 0.0) / factor for low, cost in zip(floor, costs, strict=True)]
        axes.add_patch(_bars(places, floor, tops, facecolor=paint[key], label=clip(key)))
        floor = tops


def _bars(places: Sequence[int], floor: Sequence[float], tops: Sequence[float], **look: Any) -> PathPatch:
    """All bars of one colour as one path: a tenth of the file and of the time of single rectangles."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    corners, codes = [], []
    for place, low, high in zip(places, floor, tops, strict=True):
        if high > low:
            left, right = place - 0.43, place + 0.43
            corners += [(left, low), (left, high), (right, high), (right, low), (left, low)]
            codes += [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return PathPatch(Path(corners or [(0, 0)], codes or None), linewidth=0, **look)


def _layer_groups(order: Sequence[str]) -> dict[str, list[int]]:
    """Places by the first part of the layer's name, or by as many parts as it takes to tell groups apart."""
    for depth in (1, 2, 3):
        groups: dict[str, list[int]] = {}
        for place, name in enumerate(order):
            groups.setdefault(".".join(plain(name).split(".")[:depth]), []).append(place)
        if max(map(len, groups.values())) < 0.7 * len(order):
            break
    return groups


def _layer_ticks(column: Sequence[Axes], order: Sequence[str]) -> None:
    """Every layer's name where there is room for it, else the names of the groups that layers share."""
    if len(order) <= 36:
        column[-1].set_xticks(range(len(order)), list(map(clip, order)), rotation=90)
        return
    groups = _layer_groups(order)
    wide = {name: places for name, places in groups.items() if len(places) >= len(order) / 25}
    column[-1].set_xticks(
        [(places[0] + places[-1]) / 2 for places in wide.values()],
        [f"{clip(name, 24)} ({len(places)} layers)" for name, places in wide.items()],
    )
    for axes in column:
        axes.tick_params(axis="x", length=0)
        for places in wide.values():
            axes.axvline(places[0] - 0.5, color=style.FAINT, linewidth=0.5, linestyle=(0, (2, 2)))


def plane_data(run: Run) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    header = ("row", "joules", "low_joules", "high_joules", "accuracy", "best_accuracy", "on_front")
    rows, labels = _finished(run)
    front = pareto([(row.energy.joules, row.accuracy or 0.0) for row in rows])
    return header, [
        (name, row.energy.joules, row.energy.low, row.energy.high, row.accuracy, row.best_accuracy, kept)
        for row, name, kept in zip(rows, labels, front, strict=True)
    ]


def _finished(run: Run) -> tuple[list[Row], list[str]]:
    """Rows with an accuracy, and their names."""
    pairs = [
        (row, name) for row, name in zip(run.rows, row_labels.short(run.rows), strict=True) if row.accuracy is not None
    ]
    return [row for row, _ in pairs], [name for _, name in pairs]


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which (energy, accuracy) points no other one beats: none is as cheap and as accurate and better in one."""
    return [
        not any(e <= energy and a >= accuracy and (e, a) != (energy, accuracy) for e, a in points)
        for energy, accuracy in points
    ]


def draw_plane(run: Run) -> Figure:
    rows, labels = _finished(run)
    own = scale((row.energy.joules for row in rows), "J")
    points = [(row.energy.joules / own.factor, 100 * (row.accuracy or 0.0)) for row in rows]
    crowded = len(rows) > _CROWD
    groups = [row_labels.group(row, run.rows) or label for row, label in zip(rows, labels, strict=True)]
    paint = style.colours(list(dict.fromkeys(groups)) if crowded else labels)
    marks = dict(zip(sorted({row.ratio for row in rows if row.ratio is not None}), "os^Dv<>p*h" * 9, strict=False))
    figure, grid = style.canvas(style.COLUMN, 3.4 + 0.07 * len(set(groups)) if crowded else 2.5)
    axes = grid[0][0]
    front = sorted(point for point, kept in zip(points, pareto(points), strict=True) if kept)
    axes.plot(*zip(*front, strict=True), color=style.FAINT, linewidth=0.8, zorder=1, drawstyle="steps-post")
    _plane_limits(axes, points)
    for (x, y), row, group, label in zip(points, rows, groups, labels, strict=True):
        mark = marks.get(row.ratio, "o") if crowded and row.ratio is not None else "o"
        axes.plot(
            [x],
            [y],
            mark,
            color=paint[group if crowded else label][0],
            markersize=5.5,
            markeredgecolor="white",
            zorder=3,
        )
    axes.set_xlabel(f"modelled training energy [{own.unit}]")
    axes.set_ylabel("test accuracy, last epoch [%]")
    axes.grid()
    if crowded:
        _plane_legend(figure, axes, paint, marks)
    else:
        style.point_labels(axes, [(x, y, label, paint[label][0]) for (x, y), label in zip(points, labels, strict=True)])
    return figure


def _plane_limits(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    xs, ys = zip(*points, strict=True)
    if min(xs) > 0 and max(xs) / min(xs) > 12:
        axes.set_xscale("log")
    else:
        axes.set_xlim(0, 1.12 * max(xs) or 1.0)
    margin = max(0.15 * (max(ys) - min(ys)), 0.25)
    axes.set_ylim(min(ys) - margin, max(ys) + margin)


def _plane_legend(figure: Figure, axes: Axes, paint: Mapping[str, Any], marks: Mapping[float, str]) -> None:
    """Too many points for direct labels: colour is the method, the mark is the ratio."""
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {"linestyle": "", "markersize": 5}
    handles = [
        Line2D([], [], marker="o", color=colour, label=clip(name), **look) for name, (colour, _) in paint.items()
    ]
    handles += [
        Line2D([], [], marker=mark, color=style.FAINT, label=f"p = {ratio:g}", **look) for ratio, mark in marks.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, handletextpad=0.2)
