"""Modelled energy of one training image along the network, dense beside its tickets, with names and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ebsim.report.display.text import clip, plain
from ebsim.report.display.value import Scale, scale
from ebsim.report.figures import style
from ebsim.report.figures.split_bars import COMPONENTS, paint
from ebsim.report.tables.energy import part_names
from ebsim.report.tables.per_layer import NetworkCost, per_layer
from ebsim.runs.load import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 40
"""Bars in a panel: layers where there are no more, else the blocks that they belong to."""


def data(run: Run) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Every layer, by component and by pass, with its share of the network."""
    header = ("row", "layer", "split_by", "part", "joules_per_image", "share_of_network")
    rows: list[tuple[Any, ...]] = []
    for name, network in per_layer(run).items():
        for cost in network.layers:
            for kind, parts in (("component", cost.components), ("pass", cost.passes), ("all", {"total": cost.total})):
                rows += [(name, cost.layer, kind, part, j, j / network.total) for part, j in parts.items()]
    return header, rows


def plot(run: Run, width: float) -> Figure:
    """One panel per network, in network order from top to bottom; the value stands at the end of each bar."""
    networks = per_layer(run)
    order = list(dict.fromkeys(cost.layer for network in networks.values() for cost in network.layers))
    groups = _groups(order)
    stacks = {name: _stacks(network, groups) for name, network in networks.items()}
    keys = part_names(parts for stack in stacks.values() for parts in stack.values())
    own = scale((sum(parts.values()) for stack in stacks.values() for parts in stack.values()), "J")
    names = list(dict.fromkeys(groups.values()))
    columns = max(1, min(len(networks), int(width / 1.6)))
    lines = -(-len(networks) // columns)
    size = (width, lines * (0.75 + (0.2 if len(names) < 20 else 0.155) * len(names)))
    figure, grid = style.canvas(*size, lines, columns, sharex=True, sharey=True)
    axes_list = [axes for row in grid for axes in row]
    for axes, (name, stack) in zip(axes_list, stacks.items(), strict=False):
        _panel(axes, stack, names, keys, own)
        total = scale([networks[name].total], "J")
        axes.set_title(f"{clip(name, 22)}: {total.value(networks[name].total)} {total.unit}")
    for axes in axes_list[len(networks) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel(f"per training image [{own.unit}]")
    style.legend_above(figure, axes_list[0], width)
    return figure


def _groups(order: Sequence[str]) -> dict[str, str]:
    """Layer -> bar: itself, or as many leading parts of its name as leave at most `MOST` bars."""
    if len(order) <= MOST:
        return {layer: plain(layer) for layer in order}
    deepest = max(name.count(".") for name in order) + 1
    for depth in range(deepest, 0, -1):
        groups = {layer: plain(".".join(layer.split(".")[:depth])) for layer in order}
        if len(set(groups.values())) <= MOST:
            return groups
    size = -(-len(order) // MOST)
    return {layer: f"layers {place // size * size + 1} to …" for place, layer in enumerate(order)}


def _stacks(network: NetworkCost, groups: Mapping[str, str]) -> dict[str, dict[str, float]]:
    out: dict[str, dict[str, float]] = {}
    for cost in network.layers:
        parts = out.setdefault(groups[cost.layer], {})
        for key, joules in cost.components.items():
            parts[key] = parts.get(key, 0.0) + joules
    return out


def _panel(
    axes: Axes, stack: Mapping[str, Mapping[str, float]], names: Sequence[str], keys: Sequence[str], own: Scale
) -> None:
    looks = paint(keys, COMPONENTS)
    lefts = [0.0] * len(names)
    for key in keys:
        sizes = [stack.get(name, {}).get(key, 0.0) / own.factor for name in names]
        color, hatch = looks[key]
        style.bars(axes, lefts, sizes, 0.8, color, hatch, clip(key))
        lefts = [left + size for left, size in zip(lefts, sizes, strict=True)]
    for place, (name, end) in enumerate(zip(names, lefts, strict=True)):
        if name in stack:
            axes.annotate(str(own.value(end * own.factor)), (end, place), xytext=(2, 0), textcoords="offset points",
                          va="center", fontsize=5.5)  # fmt: skip
    axes.set_yticks(range(len(names)), [clip(name, 24) for name in names], fontsize=6)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, max(axes.get_xlim()[1], 1.3 * max(lefts)))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
