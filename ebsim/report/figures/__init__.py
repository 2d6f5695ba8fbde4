"""The figures of a report: what each shows, where its data come from, how it is drawn and written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ebsim.report.display.text import csv
from ebsim.report.figures import (
    accuracy_energy,
    curves,
    draw_epoch,
    layers,
    masks,
    roofline,
    split_bars,
    style,
    tornado,
    waterfall,
)
from ebsim.report.figures.pgf import pgf
from ebsim.report.tables.per_layer import per_layer
from ebsim.runs.load import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Sheet = tuple[tuple[str, ...], list[tuple[Any, ...]]]


def _always(run: Run) -> bool:
    return True


def _never(run: Run) -> bool:
    return False


@dataclass(frozen=True)
class Plot:
    """`render` takes the width in inches; `needs` says whether a run has what the figure shows, `wide` whether the page
    gives it the whole width."""

    name: str
    title: str
    caption: str
    data: Callable[[Run], Sheet]
    render: Callable[[Run, float], Figure]
    needs: Callable[[Run], bool] = _always
    wide: Callable[[Run], bool] = _always


def _has_masks(run: Run) -> bool:
    return bool(masks.panels(run))


def _many(run: Run) -> bool:
    return len(run.rows) > 12


PLOTS = (
    Plot(
        "accuracy_energy",
        "Accuracy against modelled energy",
        "Up and to the left is better; the step line joins what no other row beats. Horizontal bars: the 90 % band of "
        "the energy relative to dense; the band of the absolute energies is left out because it moves all points "
        "together. Shape is the method, shade the prune ratio.",
        accuracy_energy.data,
        accuracy_energy.plot,
        lambda run: sum(row.accuracy is not None for row in run.rows) > 1,
        _many,
    ),
    Plot(
        "energy_stages",
        "Energy by stage",
        "The whole pipeline, search included; at the end of a bar the energy, and what it is less or more than dense.",
        partial(split_bars.data, kind="stage"),
        lambda run, width: split_bars.plot(run, "stage", width),
        wide=_never,
    ),
    Plot(
        "energy_components",
        "Energy by component",
        "The same bars by what spends the energy: arithmetic, memories, traffic.",
        partial(split_bars.data, kind="component"),
        lambda run, width: split_bars.plot(run, "component", width),
        wide=_never,
    ),
    Plot(
        "waterfall",
        "From the dense baseline to the ticket",
        "Each step changes one thing in the ledger and prices it again, so the steps sum to the difference: first how "
        "long the dense network is trained, then the retraining as if it were still dense, then what the smaller "
        "network and its precision take off. Hatched: added. Steps under 0.2 % of the baseline are in the CSV only.",
        waterfall.data,
        waterfall.plot,
        lambda run: bool(waterfall.shown(run)),
    ),
    Plot(
        "tornado",
        "What the saving rests on",
        "The saving with one constant of the accelerator at the low or the high end of its 90 % band, all others as "
        "they are; the widest swing on top.",
        tornado.data,
        tornado.plot,
        lambda run: bool(tornado.shown(run)),
    ),
    Plot(
        "mask_distance",
        "Mask distance against its threshold",
        "Dots: distance of each epoch's mask to the one before. Line: what the rule compares with the threshold. "
        "Red: the epoch at which the ticket emerged.",
        masks.distance_data,
        masks.plot_distance,
        _has_masks,
    ),
    Plot(
        "mask_map",
        "Mask distance between any two epochs",
        "Epoch 0 is the untrained network. Dashed red: the epoch at which the ticket was identified; the red mark "
        "on the color bar is the threshold.",
        masks.map_data,
        masks.plot_map,
        _has_masks,
    ),
    Plot(
        "curves",
        "Accuracy and loss",
        "Each ticket leaves the dense line at the epoch where it was drawn (dot). The accuracy axis leaves out the "
        "first steep rise. The CSV has the test loss, and all lines where only those of the best rows are drawn.",
        curves.data,
        curves.plot,
        lambda run: any(run.curves.values()),
    ),
    Plot(
        "draws",
        "Accuracy against the epoch of the draw",
        "Filled: ours, last epoch; star: the ticket from the epoch with the best test accuracy. Hollow, dotted: the "
        "paper's Figure 1 (best epoch on the test set), where it has this network and dataset.",
        draw_epoch.data,
        draw_epoch.plot,
        lambda run: bool(draw_epoch.series(run)),
    ),
    Plot(
        "energy_layers",
        "Energy per layer, dense against ticket",
        "Each convolution or linear layer in network order (in a deep network the block that it belongs to), with the "
        "normalization, activation and other work that follows it; forward, both backward passes and the update.",
        layers.data,
        layers.plot,
        lambda run: bool(per_layer(run)),
    ),
    Plot(
        "roofline",
        "Roofline of the layers",
        "One dot per layer and pass: how many MACs it makes of each byte of DRAM traffic, and how fast the modelled "
        "accelerator lets it. On the slope DRAM is the limit; on a flat line, which names its formats, the array; "
        "under both, an array that is not filled or a buffer.",
        roofline.data,
        roofline.plot,
        roofline.has_points,
    ),
)


def make(plot: Plot, run: Run) -> dict[str, bytes]:
    """{file name: bytes} of one figure of a run for the page."""
    width = style.PAGE if plot.wide(run) else style.COLUMN
    return for_page(plot.name, lambda inches: plot.render(run, inches), width, plot.data(run))


def page_forms(plot: Callable[[float], Figure], width: float, sheet: Sheet) -> dict[str, bytes]:
    """{ending: bytes} of one figure for a page: SVG, PNG and the CSV of what it shows."""
    with style.styled():
        figure = plot(width)
        style.settle(figure)
        return {"svg": style.svg(figure), "png": style.png(figure), "csv": csv(*sheet).encode()}


def for_page(name: str, plot: Callable[[float], Figure], width: float, sheet: Sheet) -> dict[str, bytes]:
    """{file name: bytes} of `page_forms`."""
    return {f"{name}.{ending}": data for ending, data in page_forms(plot, width, sheet).items()}


def for_paper(name: str, plot: Callable[[float], Figure]) -> dict[str, bytes]:
    """{file name: bytes} of one figure for a paper: PDF and PGF, in one column (3.25 in) and full width (6.75 in)."""
    out: dict[str, bytes] = {}
    for ending, width in (("-column", style.COLUMN), ("", style.PAGE)):
        with style.styled():
            figure = plot(width)
            style.settle(figure)
            out[f"{name}{ending}.pdf"] = style.pdf(figure)
            out |= pgf(figure, f"{name}{ending}")
    return out
