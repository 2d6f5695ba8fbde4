"""The figures of a report: what each shows, where its data come from, how it is drawn and written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ebsim.report.display.text import csv
from ebsim.report.figures import curves, draw_epoch, energy, masks, style
from ebsim.report.tables.per_layer import per_layer
from ebsim.runs.load import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Sheet = tuple[tuple[str, ...], list[tuple[Any, ...]]]


@dataclass(frozen=True)
class Plot:
    """`needs` says whether a run has what the figure shows; `wide` figures take the whole page width."""

    name: str
    title: str
    caption: str
    data: Callable[[Run], Sheet]
    draw: Callable[[Run], Figure]
    needs: Callable[[Run], bool]
    wide: bool = True


def _has_masks(run: Run) -> bool:
    return bool(masks.panels(run))


PLOTS = (
    Plot(
        "accuracy_energy",
        "Accuracy against modelled energy",
        "Up and to the left is better; the line joins what no other row beats. The band of the energies is left "
        "out because it moves all points together.",
        energy.plane_data,
        energy.draw_plane,
        lambda run: sum(row.accuracy is not None for row in run.rows) > 1,
        wide=False,
    ),
    Plot(
        "energy_stages",
        "Energy per stage",
        "The whole pipeline, search included; at the end of a bar the saving against dense.",
        energy.stage_data,
        energy.draw_stages,
        lambda run: True,
        wide=False,
    ),
    Plot(
        "mask_distance",
        "Mask distance against its threshold",
        "Dots: distance of each epoch's mask to the one before. Line: what the rule compares with the threshold. "
        "Red: the epoch at which the ticket emerged.",
        masks.distance_data,
        masks.draw_distance,
        _has_masks,
    ),
    Plot(
        "mask_map",
        "Mask distance between any two epochs",
        "Epoch 0 is the untrained network. Dashed red: the epoch at which the ticket was identified; the red mark "
        "on the colour bar is the threshold.",
        masks.map_data,
        masks.draw_map,
        _has_masks,
    ),
    Plot(
        "curves",
        "Accuracy and loss",
        "Each ticket leaves the dense line at the epoch where it was drawn (dot). The accuracy axis leaves out the "
        "first steep rise; the test loss is in the CSV.",
        curves.data,
        curves.draw,
        lambda run: any(run.curves.values()),
    ),
    Plot(
        "draws",
        "Accuracy against the epoch of the draw",
        "Filled: ours, last epoch; star: the ticket from the epoch with the best test accuracy. Hollow, dotted: the "
        "paper's Figure 1 (best epoch on the test set), where it has this network and dataset.",
        draw_epoch.data,
        draw_epoch.draw,
        lambda run: bool(draw_epoch.series(run)),
    ),
    Plot(
        "energy_layers",
        "Energy per layer, dense against ticket",
        "One bar per convolution or linear layer in network order, with the normalization, activation and other "
        "work that follows it; forward, both backward passes and the update.",
        energy.layer_data,
        energy.draw_layers,
        lambda run: bool(per_layer(run)),
    ),
)


def make(plot: Plot, run: Run) -> dict[str, bytes]:
    """{file name: bytes} of one figure: SVG, PNG and the CSV of what it shows."""
    with style.styled():
        figure = plot.draw(run)
        style.settle(figure)
        vector, pixels = style.svg(figure), style.png(figure)
    header, rows = plot.data(run)
    return {f"{plot.name}.svg": vector, f"{plot.name}.png": pixels, f"{plot.name}.csv": csv(header, rows).encode()}
