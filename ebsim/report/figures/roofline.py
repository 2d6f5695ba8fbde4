"""Rooflines: what each layer could reach on an accelerator, and what holds it back. Of a run, or of any network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ebsim.report.display.text import clip
from ebsim.report.display.value import scale
from ebsim.report.figures import style
from ebsim.report.tables.per_layer import per_layer
from ebsim.runs.load import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hw_models.analysis.roofline import Roof, RooflinePoint

PASSES = {
    "forward": ("o", style.CYCLE[0]),
    "input_gradient": ("s", style.CYCLE[1]),
    "weight_gradient": ("^", style.CYCLE[2]),
}


@dataclass(frozen=True)
class Panel:
    """What stands under the roofs of one accelerator; `bytes_per_s`: of its DRAM."""

    points: Sequence[RooflinePoint]
    roofs: Sequence[Roof]
    bytes_per_s: float

    @property
    def shown(self) -> list[RooflinePoint]:
        """What never leaves the chip, or takes no time, has no place on the axes."""
        return [point for point in self.points if point.bytes and point.seconds]


def data(run: Run) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    header = ("row", "layer", "pass", "formats", "macs_per_image", "dram_bytes_per_image", "seconds_per_image", "bound",
              "roof_macs_per_s", "attainable_macs_per_s")  # fmt: skip
    bytes_per_s = run.chip.dram_bits_per_s / 8
    return header, [
        (name, p.layer, p.phase, p.formats, p.macs / network.images, p.bytes / network.images,
         p.seconds / network.images, p.bound, p.roof, p.attainable(bytes_per_s))
        for name, network in per_layer(run).items()
        for p in network.points
    ]  # fmt: skip


def has_points(run: Run) -> bool:
    return any(panel.shown for panel in _panels(run).values())


def plot(run: Run, width: float) -> Figure:
    """One panel per network."""
    return plot_panels(_panels(run), width)


def _panels(run: Run) -> dict[str, Panel]:
    from hw_models.analysis.roofline import roofs

    return {
        name: Panel(
            network.points,
            [roof for roof in roofs(run.chip, [(p.formats, p.roof) for p in network.points])
             if any(p.roof == roof.macs_per_s for p in network.points)],
            run.chip.dram_bits_per_s / 8,
        )
        for name, network in per_layer(run).items()
    }  # fmt: skip


def plot_panels(panels: Mapping[str, Panel], width: float) -> Figure:
    """Panels of one scale: a dot per layer and pass, under the slope of DRAM and a line for each compute roof.

    Roofs of formats that no point uses are thin. Panels without a point that can be shown are left out.
    """
    panels = {name: panel for name, panel in panels.items() if panel.shown}
    columns = max(1, min(len(panels), int(width / 1.6)))
    lines = -(-len(panels) // columns)
    height = 1.8 if columns > 2 or lines > 1 else min(2.6, 0.6 * width)
    figure, grid = style.canvas(width, height * lines + 0.4, lines, columns, sharex=True, sharey=True)
    axes_list = [axes for row in grid for axes in row]
    every = [point for panel in panels.values() for point in panel.shown]
    tops = [roof.macs_per_s for panel in panels.values() for roof in panel.roofs]
    own = scale([max([p.rate for p in every] + tops)], "MAC/s")
    knees = [roof.macs_per_s / panel.bytes_per_s for panel in panels.values() for roof in panel.roofs]
    ends = min(p.intensity for p in every) / 1.5, max([*(p.intensity for p in every), *knees]) * 1.5
    lowest = min(p.rate for p in every) / own.factor
    for axes, (name, panel) in zip(axes_list, panels.items(), strict=False):
        for phase, (shape, color) in PASSES.items():
            place = [(p.intensity, p.rate / own.factor) for p in panel.shown if p.phase == phase]
            if place:
                axes.plot(*zip(*place, strict=True), shape, color=color, markersize=3, markeredgewidth=0,
                          label=phase.replace("_", " "))  # fmt: skip
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=(lowest / 2, 2 * max(tops) / own.factor))
        _roofs(axes, panel, ends, own.factor)
        axes.set_title(clip(name, 22 if columns > 1 else 60))
        axes.grid()
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
    for axes in axes_list[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("MACs per DRAM byte")
    figure.supylabel(f"MACs per modelled second [{own.unit}]", fontsize=8)
    style.legend_above(figure, axes_list[0], width)
    return figure


def _roofs(axes: Axes, panel: Panel, ends: tuple[float, float], factor: float) -> None:
    """The slope of DRAM up to the highest roof, and each roof from the slope on, named above its right end."""
    slope, used = panel.bytes_per_s / factor, {p.roof for p in panel.points}
    multiplied = {part for p in panel.points for part in (p.formats, *p.formats.split("*"))}
    knee = max(roof.macs_per_s for roof in panel.roofs) / panel.bytes_per_s
    axes.plot([ends[0], knee], [ends[0] * slope, knee * slope], color=style.INK, linewidth=0.9, zorder=1)
    for roof in panel.roofs:
        height, thick = roof.macs_per_s / factor, roof.macs_per_s in used
        color = style.INK if thick else style.FAINT
        start = max(height / slope, ends[0])
        axes.plot([start, ends[1]], [height, height], color=color, linewidth=0.9 if thick else 0.5, zorder=1)
        names = sorted(roof.formats, key=lambda name: name not in multiplied)  # those in use first
        axes.annotate(clip(", ".join(names), 24), (ends[1], height), (-1, 1.5), textcoords="offset points",
                      ha="right", va="bottom", fontsize=6, color=color, path_effects=style.halo())  # fmt: skip
