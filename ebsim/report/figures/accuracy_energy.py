"""A run's rows in the plane of accuracy and modelled energy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ebsim.report.display.text import plain
from ebsim.report.figures import plane
from ebsim.report.figures.plane import PlanePoint
from ebsim.report.tables import row_labels
from ebsim.runs.load import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def points(run: Run) -> list[PlanePoint]:
    """The rows with an accuracy. An energy's band is that of its ratio to dense, at the energy of dense."""
    out = []
    for row, name in zip(run.rows, row_labels.short(run.rows), strict=True):
        if row.accuracy is None:
            continue
        group = ", ".join(filter(None, (plain(row.label), row_labels.low_precision(row))))
        saving, band = row.energy.saving, None
        if saving is not None and run.dense is not None and row is not run.dense:
            band = (run.dense.energy.joules * (1 - saving.high), run.dense.energy.joules * (1 - saving.low))
        out.append(PlanePoint(name, group, row.ratio, row.energy.joules, row.accuracy, band))
    return out


def data(run: Run) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    header = ("row", "joules", "low_against_dense", "high_against_dense", "accuracy", "on_front")
    shown = points(run)
    return header, [
        (point.name, point.joules, *(point.joules_band or (None, None)), point.accuracy, kept)
        for point, kept in zip(shown, plane.on_front(shown), strict=True)
    ]


def plot(run: Run, width: float) -> Figure:
    return plane.plot(points(run), width)
