"""Where the modelled joules go: one stacked bar per row, by stage of the pipeline or by hardware component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ebsim.report.display.text import clip
from ebsim.report.display.value import percent, scale
from ebsim.report.figures import style
from ebsim.report.tables.energy import part_names, split
from ebsim.report.tables.row_labels import short
from ebsim.runs.load import Run
from ebsim.runs.schema import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# part -> color and hatch; neighbors differ in lightness too, so that a grey-scale print keeps them apart
STAGES = {"search": ("#E69F00", ""), "retrain": ("#0072B2", ""), "dense": ("#b3b3b3", "")}
COMPONENTS = {
    "mac": ("#0072B2", ""),
    "register": ("#56B4E9", ""),
    "interconnect": ("#CC79A7", ""),
    "buffer": ("#E69F00", "\\\\\\\\"),
    "dram": ("#D55E00", ""),
    "vector": ("#009E73", "////"),
    "quantiser": ("#F0E442", ""),
    "static": ("#999999", "xxxx"),
}
SPARE = (
    ("#009E73", ""),
    ("#F0E442", "////"),
    ("#CC79A7", ""),
    ("#56B4E9", ""),
    ("#8c564b", ""),
    ("#7f7f7f", "////"),
)
NAMED = 0.14
"""A part that takes more of the longest bar than this carries its share of its own bar."""


def paint(keys: Sequence[str], known: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Color and hatch of each part; parts that are not known take what is left, in order."""
    taken = {known[key] for key in keys if key in known}
    spare = iter([look for look in SPARE if look not in taken] * 4)
    return {key: known.get(key) or next(spare) for key in keys}


def data(run: Run, kind: str) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Joules and share of each part of each row, by `stage` or `component`."""
    out: list[tuple[Any, ...]] = []
    for row, name in zip(run.rows, short(run.rows), strict=True):
        for part, joules in split(row, kind).items():
            out.append((name, part, joules, joules / row.energy.joules if row.energy.joules else 0.0))
    return ("row", kind, "joules", "share"), out


def plot(run: Run, kind: str, width: float) -> Figure:
    """The whole pipeline, search included; what a bar ends with is the row's energy and its saving against dense."""
    rows = run.rows
    parts = [split(row, kind) for row in rows]
    keys = part_names(parts)
    looks = paint(keys, STAGES if kind == "stage" else COMPONENTS)
    own = scale((row.energy.joules for row in rows), "J")
    columns = max(1, min(len(keys), int(width / 1.0)))
    lines = -(-len(keys) // columns)
    figure, grid = style.canvas(width, 0.6 + 0.15 * lines + (0.27 if len(rows) < 12 else 0.16) * len(rows))
    axes = grid[0][0]
    longest = max(row.energy.joules for row in rows) / own.factor or 1.0
    lefts = [0.0] * len(rows)
    for key in keys:
        sizes = [part.get(key, 0.0) / own.factor for part in parts]
        color, hatch = looks[key]
        style.bars(axes, lefts, sizes, 0.74, color, hatch, clip(key))
        _shares(axes, rows, sizes, lefts, own.factor, longest, color)
        lefts = [left + size for left, size in zip(lefts, sizes, strict=True)]
    size = 7 if len(rows) < 12 else 5.5
    for place, row in enumerate(rows):
        text, at = _end(row, str(own.value(row.energy.joules)), kind), (row.energy.joules / own.factor, place)
        axes.annotate(text, at, xytext=(3, 0), textcoords="offset points", va="center", fontsize=size)
    axes.set_yticks(range(len(rows)), [clip(name, 28) for name in short(rows)], fontsize=size)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, (1.32 if kind == "stage" else 1.18) * longest)
    axes.set_xlabel(f"modelled training energy [{own.unit}]")
    axes.grid(axis="x")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=columns, handlelength=1,
                  columnspacing=1)  # fmt: skip
    return figure


def _shares(
    axes: Axes, rows: Sequence[Row], sizes: Sequence[float], lefts: Sequence[float], factor: float, longest: float,
    color: str,
) -> None:  # fmt: skip
    """The share of a part inside it, where there is room for it."""
    for place, (row, size, left) in enumerate(zip(rows, sizes, lefts, strict=True)):
        if size > NAMED * longest and len(rows) <= 12:
            share = percent(size * factor / row.energy.joules, 0)
            axes.annotate(str(share), (left + size / 2, place), ha="center", va="center", fontsize=6,
                          color=style.text_on(color))  # fmt: skip


def _end(row: Row, energy: str, kind: str) -> str:
    saving = row.saving_vs_dense
    if kind != "stage" or row.method == "dense" or not saving:
        return energy
    return f"{energy}  {'−' if saving > 0 else '+'}{percent(abs(saving), 0)}"
