"""How a point looks that stands for a method at a prune ratio: no two look the same, in colour or in grey.

The method is the marker's shape and hue, the ratio its shade, from light (little is pruned) to dark. Shape and shade
survive a grey-scale print and every kind of colour blindness; the dark rim stands out from white and from dark paper.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

from ebsim.report.figures import style

SHAPES = "os^DvPXp<>h*"
HUES = (*style.CYCLE, "#882255", "#332288")


@dataclass(frozen=True)
class Mark:
    colour: str
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


def tint(colour: str, shade: float) -> str:
    """The colour from very light (`shade` 0) to a little darker than itself (1)."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    hue, light, saturation = colorsys.rgb_to_hls(red, green, blue)
    target = 0.9 - (0.9 - 0.85 * light) * shade
    mixed = colorsys.hls_to_rgb(hue, target, saturation)
    return "#" + "".join(f"{round(255 * part):02x}" for part in mixed)
