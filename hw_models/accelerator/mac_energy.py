"""Energy of one multiply-accumulate by number format: the profile's published value, else a law through its values.

integer multiply-accumulate   c0 + c1 b + c2 b^2      Bit Fusion synthesis, 45 nm, b = 2, 4, 8, 16
float multiplier              a m^2 + b (m + e)       Horowitz 45 nm fp16 and fp32; m with the hidden one
mixed widths                  b^2 -> b_x b_y, b -> mean (an array multiplier is bilinear)
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from hw_models.accelerator.constant import Number
from hw_models.precision.formats import FORMATS, Format

INT_LAW = (0.0121, 0.0111, 0.00161)
FP_LAW = (0.00449, 0.0348)
FP_ADD = 0.9  # pJ, the accumulate that the float law's shape includes (Horowitz fp32 add)
LAW_BAND = 1.25  # a value by the law is that much less certain than the points it passes through


def law_pj(x: Format, y: Format) -> float:
    """MAC energy by law, pJ at 45 nm, before it is scaled to a profile's points."""
    if x.integer and y.integer:
        b, product = (x.significand + y.significand) / 2, x.significand * y.significand
        return INT_LAW[0] + INT_LAW[1] * b + INT_LAW[2] * product
    m, e = (x.significand + y.significand) / 2, (x.exponent + y.exponent) / 2
    return FP_LAW[0] * x.significand * y.significand + FP_LAW[1] * (m + e) + FP_ADD


def mac_energy(points: Mapping[str, Number], x: Format, y: Format) -> Number:
    """pJ of a multiply-accumulate: the published point if there is one, else the law through the points.

    Between points the logarithms are interpolated, outside them the law's own ratio holds, so the energy is as
    monotonous as the points are. A value by the law is marked derived.
    """
    if x.hardware == y.hardware and x.hardware in points:
        return points[x.hardware]
    integer = x.integer and y.integer
    # a chip with points of the other class only: those, through the ratio of the two laws
    usable = [n for n in points if FORMATS[n].integer == integer] or list(points)
    anchors = sorted(
        ((math.log(law_pj(FORMATS[n], FORMATS[n])), points[n], n) for n in usable), key=lambda anchor: anchor[0]
    )
    at, xs = math.log(law_pj(x, y)), [place for place, *_ in anchors]
    inside = float(np.interp(at, xs, [math.log(number.value) for _, number, _ in anchors]))
    outside = max(at - xs[-1], 0.0) + min(at - xs[0], 0.0)
    distance, nearest = min(((abs(at - place), number) for place, number, _ in anchors), key=lambda pair: pair[0])
    exact = distance < 1e-12
    kind = "integer c0 + c1 b + c2 b^2" if integer else "float a m^2 + b (m + e)"
    around = [name for place, _, name in anchors if abs(at - place) < 1e-12] or [
        *[name for place, _, name in anchors if place < at][-1:],
        *[name for place, _, name in anchors if place > at][:1],
    ]
    return Number(
        math.exp(inside + outside),
        nearest.band * (1.0 if exact else LAW_BAND),
        f"by the law ({kind}) from {' and '.join(around[:2])}",
        nearest.derived or not exact,
    )
