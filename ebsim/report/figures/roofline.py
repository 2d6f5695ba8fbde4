"""The roofline of a run's networks: what each layer could reach, and what holds it back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ebsim.report.display.text import clip
from ebsim.report.display.value import scale
from ebsim.report.figures import style
from ebsim.report.tables.per_layer import NetworkCost, RooflinePoint, per_layer
from ebsim.runs.load import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PASSES = {
    "forward": ("o", style.CYCLE[0]),
    "input_gradient": ("s", style.CYCLE[1]),
    "weight_gradient": ("^", style.CYCLE[2]),
}


def data(run: Run) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    header = ("row", "layer", "pass", "macs_per_image", "dram_bytes_per_image", "seconds_per_image", "bound")
    return header, [
        (name, point.layer, point.phase, point.macs, point.bytes, point.seconds, point.bound)
        for name, network in per_layer(run).items()
        for point in network.points
    ]


def drawable(run: Run) -> bool:
    return any(map(_drawable, per_layer(run).values()))


def draw(run: Run, width: float) -> Figure:
    """One panel per network: a dot per layer and pass, under the slope of DRAM."""
    networks = {name: _drawable(network) for name, network in per_layer(run).items()}
    networks = {name: points for name, points in networks.items() if points}
    columns = max(1, min(len(networks), int(width / 1.6)))
    lines = -(-len(networks) // columns)
    figure, grid = style.canvas(width, 1.8 * lines + 0.4, lines, columns, sharex=True, sharey=True)
    axes_list = [axes for row in grid for axes in row]
    every = [point for points in networks.values() for point in points]
    own = scale([max(p.macs / p.seconds for p in every)], "MAC/s")
    slope = run.chip.dram_bits_per_s / 8 / own.factor
    ends = (min(p.macs / p.bytes for p in every) / 1.5, max(p.macs / p.bytes for p in every) * 1.5)
    rates = [p.macs / p.seconds / own.factor for p in every]
    for axes, (name, points) in zip(axes_list, networks.items(), strict=False):
        for phase, (shape, color) in PASSES.items():
            own_points = [(p.macs / p.bytes, p.macs / p.seconds / own.factor) for p in points if p.phase == phase]
            if own_points:
                axes.plot(*zip(*own_points, strict=True), shape, color=color, markersize=3, markeredgewidth=0,
                          label=phase.replace("_", " "))  # fmt: skip
        axes.plot(ends, [end * slope for end in ends], color=style.INK, linewidth=0.9, zorder=1)
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=(min(rates) / 2, 2 * max(rates)))
        axes.set_title(clip(name, 22))
        axes.grid()
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
    for axes in axes_list[len(networks) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("MACs per DRAM byte")
    figure.supylabel(f"MACs per modelled second [{own.unit}]", fontsize=8)
    style.legend_above(figure, axes_list[0], width)
    return figure


def _drawable(network: NetworkCost) -> list[RooflinePoint]:
    return [point for point in network.points if point.bytes and point.seconds]
