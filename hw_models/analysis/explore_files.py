"""The results of `hw explore` as files: every variant in a CSV, the Pareto front in a figure."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hw_models.analysis.explore import OBJECTIVES, Explored
from hw_models.errors import HardwareError

LABELS = {
    "energy": "energy of a step (J, modelled)",
    "latency": "time of a step (s, at least)",
    "area": "area (mm², by law)",
    "edp": "energy-delay product (J s)",
    "throughput": "images per second (at most)",
}


def write_explored(found: Explored, objectives: Sequence[str], folder: str | Path) -> list[Path]:
    """Write variants.csv (`pareto`: whether it is on the front) and pareto.png into a new or empty folder.

    Raises `HardwareError` if the folder has files or cannot be written.
    """
    target = new_folder(folder)
    try:
        paths = [target / "variants.csv", target / "pareto.png"]
        _table(found, objectives, paths[0])
        _figure(found, objectives, paths[1])
    except OSError as error:
        raise HardwareError(f"{target}: cannot be written ({error.strerror})") from error
    return paths


def new_folder(folder: str | Path) -> Path:
    """A folder that is new or empty; `HardwareError` says what is in the way."""
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise HardwareError(f"{target}: is not empty; name a new folder")
    except OSError as error:
        raise HardwareError(f"{target}: cannot be written ({error.strerror})") from error
    return target


def _table(found: Explored, objectives: Sequence[str], path: Path) -> None:
    best = set(found.pareto(objectives))
    rows = [found.row(i) for i in range(len(found.space.variants))]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*rows[0], "pareto"])
        for i, row in enumerate(rows):
            writer.writerow(
                [*("x".join(map(str, v)) if isinstance(v, list) else v for v in row.values()), int(i in best)]
            )


def _figure(found: Explored, objectives: Sequence[str], path: Path) -> None:
    """The first two objectives against each other, the third as color, the front on top."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    x, y, *rest = [*objectives, *(name for name in OBJECTIVES if name not in objectives)]
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    best = np.array(found.pareto(objectives))
    color = found.objective(rest[0])
    points = axes.scatter(
        found.objective(x), found.objective(y), c=np.log10(color), s=4, cmap="viridis", linewidths=0, rasterized=True
    )
    axes.scatter(
        found.objective(x)[best],
        found.objective(y)[best],
        facecolors="none",
        edgecolors="crimson",
        s=28,
        label=f"{len(best)} on the front of {', '.join(objectives)}"
        + (", one for each format" if "format" in found.space.keys else ""),
    )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel=LABELS[x],
        ylabel=LABELS[y],
        title=f"{len(found.energy):,} accelerators, {found.network}, batch {found.batch}",
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    figure.colorbar(points, label=f"log10 of {LABELS[rest[0]]}")
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=150)
