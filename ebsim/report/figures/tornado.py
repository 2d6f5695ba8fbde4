"""What the savings rest on, as a tornado: each constant at the two ends of its band, the widest swing on top."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ebsim.report.display.text import clip
from ebsim.report.figures import style
from ebsim.report.tables.highlights import highlights
from ebsim.report.tables.sensitivity import Swing, records, swings
from ebsim.runs.load import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 8
"""Constants in a panel; the rest is in the CSV."""


def shown(run: Run) -> dict[str, list[Swing]]:
    """The widest swings of the best rows."""
    out: dict[str, list[Swing]] = {}
    for swing in swings(run):
        out.setdefault(swing.row, []).append(swing)
    return {name: out[name][:MOST] for name in highlights(run) if name in out}


def data(run: Run) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    return records(run)


def plot(run: Run, width: float) -> Figure:
    every = shown(run)
    order = list(dict.fromkeys(swing.constant for own in every.values() for swing in own))[:MOST]
    columns = max(1, min(len(every), int(width / 2.1)))
    lines = -(-len(every) // columns)
    figure, grid = style.canvas(width, lines * (0.7 + 0.18 * len(order)), lines, columns, sharey=True)
    axes_list = [axes for row in grid for axes in row]
    for axes, (name, own) in zip(axes_list, every.items(), strict=False):
        by_constant = {swing.constant: swing for swing in own}
        for place, constant in enumerate(order):
            if constant not in by_constant:
                continue
            swing = by_constant[constant]
            for end, color, hatch in ((swing.low, style.CYCLE[5], ""), (swing.high, style.CYCLE[0], "////")):
                axes.barh(place, 100 * (end - swing.saving), left=100 * swing.saving, height=0.7, color=color,
                          hatch=hatch, edgecolor="white", linewidth=0.4)  # fmt: skip
        axes.axvline(100 * own[0].saving, color=style.INK, linewidth=0.8)
        axes.set_yticks(range(len(order)), map(clip, order))
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_title(clip(name))
        axes.set_xlabel("saving against dense [%]")
        axes.grid(axis="x")
    for axes in axes_list[len(every) :]:
        axes.set_visible(False)
    _legend(figure, width)
    return figure


def _legend(figure: Figure, width: float) -> None:
    from matplotlib.patches import Patch

    kinds = (("at the low end of its band", style.CYCLE[5], ""), ("at the high end", style.CYCLE[0], "////"))
    handles = [Patch(facecolor=c, hatch=h, edgecolor="white", label=text) for text, c, h in kinds]
    figure.legend(handles=handles, loc="outside upper right", ncols=1 if width < 4 else 2)
