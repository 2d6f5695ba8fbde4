"""Markers of methods and prune ratios: shape, hue and shade, distinct in color and in grey.

The method is the marker's shape and hue, the ratio its shade, from light (little is pruned) to dark. Shape and shade
survive a grey-scale print and every kind of color blindness; the dark rim stands out from white and from dark paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ebsim.report.figures import style

SHAPES = "os^DvPXp<>h*"
LIGHTEST, DARKEST = 92.0, 40.0
HUES = (*style.CYCLE, "#882255", "#332288")


@dataclass(frozen=True)
class Mark:
    color: str
    shape: str
    hollow: bool = False


def marks(points: Sequence[tuple[str, float | None]]) -> list[Mark]:
    """Of each (group, ratio); a group whose name begins with "dense" is grey: what others are held against."""
    groups = list(dict.fromkeys(group for group, _ in points if not is_baseline(group)))
    ratios = sorted({ratio for _, ratio in points if ratio is not None})
    out = []
    for group, ratio in points:
        if is_baseline(group):
            out.append(Mark(style.FAINT, "o"))
            continue
        place = groups.index(group)
        shade = 1.0 if ratio is None or len(ratios) < 2 else ratios.index(ratio) / (len(ratios) - 1)
        hollow = place >= len(SHAPES)
        out.append(Mark(tint(HUES[place % len(HUES)], shade), SHAPES[place % len(SHAPES)], hollow))
    return out


def is_baseline(group: str) -> bool:
    return group.lower().startswith("dense")


def tint(color: str, shade: float) -> str:
    """The color at a lightness (CIELAB L*) from `LIGHTEST` (shade 0) to `DARKEST` (1), mixed with white or black."""
    lightness = LIGHTEST + (DARKEST - LIGHTEST) * shade
    wanted = ((lightness + 16) / 116) ** 3  # relative luminance; both ends lie above the linear part of L*
    own = style.linear_rgb(color)
    luminance = style.luminance(color)
    if wanted >= luminance:
        white = (wanted - luminance) / (1 - luminance)
        mixed = [part + white * (1 - part) for part in own]
    else:
        mixed = [part * wanted / luminance for part in own]
    return "#" + "".join(f"{round(255 * style.gamma(part)):02x}" for part in mixed)
