"""Style of all figures, and their reproducible output (the same bytes each time).

matplotlib's own defaults are the base whatever the user's matplotlibrc says; ids come from a fixed salt and no
date or version is stored. Colors are Okabe and Ito's, which stay apart for the color-blind; ink, grid and paper
have fixed values so that the HTML page can exchange them for the dark theme.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ebsim.report.display.text import clip

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#262626", "#737373", "#d9d9d9"
RED = "#d62728"
SAVED, SPENT = "#56B4E9", "#D55E00"
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
COLUMN, PAGE = 3.25, 6.75
"""Widths in inches: one column of a two-column paper, and the whole text width."""

_RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "figure.titlesize": 8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "text.parse_math": False,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "path",
    "pdf.fonttype": 42,  # outlines that stay text; Type 3 is refused by many a publisher
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "ebsim",
    "savefig.dpi": 200,
}


@contextmanager
def styled() -> Iterator[None]:
    """Every creation and saving of a figure happens inside this."""
    import matplotlib.style

    with matplotlib.style.context(["default", _RC]):
        yield


def canvas(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure of inches and its axes as a 2-D array."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def settle(figure: Figure) -> None:
    """Lay the figure out once and for all; panels of fixed aspect need a second pass."""
    fixed = any(axes.get_aspect() != "auto" for axes in figure.axes)
    for _ in range(2 if fixed else 1):
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


def whole_epochs(axes: Axes, both: bool = False) -> None:
    """Ticks at whole numbers; no epoch 2.5."""
    from matplotlib.ticker import MaxNLocator

    for axis in (axes.xaxis, axes.yaxis) if both else (axes.xaxis,):
        axis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def pdf(figure: Figure) -> bytes:
    """With its fonts embedded as outlines that stay text."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return buffer.getvalue()


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move label positions apart until each pair is at least `gap` apart, keeping their order and centre."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    groups: list[tuple[float, list[int]]] = []
    for i in order:
        groups.append((places[i], [i]))
        # Merge with the group below while they touch; a merged group sits around its members' mean.
        while len(groups) > 1 and _bottom(*groups[-1], gap) - _top(*groups[-2], gap) < gap:
            _, above = groups.pop()
            _, below = groups.pop()
            both = below + above
            groups.append((sum(places[j] for j in both) / len(both), both))
    out = [0.0] * len(places)
    for centre, members in groups:
        for step, i in enumerate(members):
            out[i] = centre + (step - (len(members) - 1) / 2) * gap
    return out


def _bottom(centre: float, members: list[int], gap: float) -> float:
    return centre - (len(members) - 1) / 2 * gap


def _top(centre: float, members: list[int], gap: float) -> float:
    return centre + (len(members) - 1) / 2 * gap


def bars(
    axes: Axes, lefts: Sequence[float], sizes: Sequence[float], height: float, color: str, hatch: str, label: str
) -> None:
    """Horizontal bars of one look at 0, 1, 2, ... as one path: a tenth of the file and of the time of single ones."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    corners, codes = [], []
    for place, (left, size) in enumerate(zip(lefts, sizes, strict=True)):
        if size > 0:
            low, high = place - height / 2, place + height / 2
            corners += [(left, low), (left, high), (left + size, high), (left + size, low), (left, low)]
            codes += [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    look: dict[str, Any] = {"facecolor": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0.4, "label": label}
    axes.add_patch(PathPatch(Path(corners or [(0, 0)], codes or None), **look))


def halo() -> list[Any]:
    """Paper around a text, so that a line behind it does not cross it."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2, foreground="white")]


def linear_rgb(color: str) -> list[float]:
    """Linear red, green and blue in [0, 1] of a hex color (IEC 61966-2-1)."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def gamma(part: float) -> float:
    """The inverse of `linear_rgb` for one part."""
    return 12.92 * part if part <= 0.0031308 else 1.055 * part ** (1 / 2.4) - 0.055


def luminance(color: str) -> float:
    """Relative luminance (WCAG 2)."""
    red, green, blue = linear_rgb(color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def text_on(color: str) -> str:
    """Black or white, whichever stands out more on a color."""
    return "#000000" if (luminance(color) + 0.05) ** 2 > 0.05 * 1.05 else "#fefefe"


def legend_above(figure: Figure, axes: Axes, width: float, columns: int = 8) -> None:
    """One legend over all panels, in as many columns as the width takes."""
    handles, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels), default=1)
    fit = max(1, min(columns, len(labels), int(width / (0.35 + 0.065 * longest))))
    figure.legend(handles, labels, loc="outside upper right", ncols=fit, handlelength=1.2, columnspacing=1)


def end_labels(axes: Axes, ends: Sequence[tuple[float, str, str]], x: float) -> None:
    """Direct labels (height, text, color) to the right of lines that end at `x`, moved apart where they touch.

    A thin line in the color leads from the end to its label; the label itself is ink, which everyone can read.
    """
    low, high = axes.get_ylim()
    inches = axes.figure.get_size_inches()[1] * axes.get_position().height  # type: ignore[union-attr]
    gap = abs(high - low) * 0.13 / inches
    heights = [min(max(end[0], low), high) for end in ends]
    moved = spread(heights, gap)
    down = max(0.0, max(moved, default=low) - high)
    left, right = axes.get_xlim()
    aside = x + 0.035 * (right - left)
    for (_, text, color), own, height in zip(ends, heights, (place - down for place in moved), strict=True):
        axes.plot([x, aside], [own, height], color=color, linewidth=0.7, clip_on=False, scalex=False, scaley=False)
        axes.annotate(
            clip(text, 30),
            (aside, height),
            xytext=(2, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            annotation_clip=False,
        )


def point_labels(axes: Axes, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Labels (x, y, text, color) beside points, each in the first corner where it covers nothing else."""
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    dot = axes.figure.dpi / 72  # type: ignore[union-attr]
    frame = axes.get_window_extent()
    points = [(x, y, clip(text), color) for x, y, text, color in points]
    places = [axes.transData.transform((x, y)) for x, y, _, _ in points]
    taken = [(x - 3 * dot, y - 3 * dot, x + 3 * dot, y + 3 * dot) for x, y in places]
    for (left, low), (x, y, text, color) in zip(places, points, strict=True):
        width, height = 4.4 * dot * len(text), 8 * dot
        best: tuple[int, tuple[int, int], tuple[float, float, float, float]] | None = None
        for side, up in ((-1, 5), (1, -5), (1, 5), (-1, -5), (-1, 13), (1, -13)):
            start = left + 4 * dot if side > 0 else left - 4 * dot - width
            middle = low + up * dot
            box = (start, middle - height / 2, start + width, middle + height / 2)
            covered = sum(_overlap(box, other) for other in taken)
            covered += 2 * (box[0] < frame.x0 or box[2] > frame.x1 or box[1] < frame.y0 or box[3] > frame.y1)
            if best is None or covered < best[0]:
                best = (covered, (side, up), box)
        assert best is not None
        side, up = best[1]
        taken.append(best[2])
        axes.annotate(
            text,
            (x, y),
            xytext=(4 * side, up),
            textcoords="offset points",
            color=color,
            fontsize=7,
            ha="left" if side > 0 else "right",
            va="center",
            path_effects=halo(),
            zorder=5,
        )


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def colors(names: Sequence[str]) -> dict[str, tuple[str, Any]]:
    """Color and dash of each name; grey is kept for what is compared against (name begins with "dense")."""
    out: dict[str, tuple[str, Any]] = {}
    turn = 0
    for name in names:
        if name.lower().startswith("dense"):
            out[name] = (FAINT, "-")
        else:
            out[name] = (CYCLE[turn % len(CYCLE)], DASHES[turn // len(CYCLE) % len(DASHES)])
            turn += 1
    return out
