"""Four-over-Six (arXiv 2512.02010): each block of E2M1 numbers gets the better one of two scales.

Between 4 and 6, the two largest numbers of E2M1, lies nothing; a block whose absmax becomes 4 has no such gap,
and a coarser grid below. Both scales are tried, to nearest, and the smaller squared error wins (6 if both are equal),
also where values are then rounded stochastically: the choice must not depend on the noise, or rounding were biased.

The errors are summed in whole units of 2^-22 of the power of two under the block's absmax, in 64-bit integers, so that
the order of a sum changes nothing: eager, compiled and any device choose alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ebsim.precision.formats.number_format import NumberFormat
from ebsim.precision.rounding import EXPONENT, POSITIVE

FULL = 256.0  # largest E4M3 scale of a block's 6 (448 elsewhere): its 4 then has 384, which is an E4M3 number too
SMALLER = 4.0
_UNIT, _SMALLEST = 22, (127 - 100) << 23
_INF = float("inf")


def better(fmt: NumberFormat, x: Tensor, s: Tensor) -> Tensor:
    """Of the two scales of each row [G, 2], which make its absmax 6 and 4, the one with the smaller error [G, 1]."""
    x = torch.where(x.abs() < _INF, x, 0.0)
    top = ((x.view(torch.int32) & POSITIVE).amax(1, keepdim=True) & EXPONENT).clamp(min=_SMALLEST)
    per_unit = (((254 + _UNIT) << 23) - top).view(torch.float32)
    six, four = s[:, :1], s[:, 1:]
    return torch.where(_error(fmt, x, four, per_unit) < _error(fmt, x, six, per_unit), four, six)


def _error(fmt: NumberFormat, x: Tensor, s: Tensor, per_unit: Tensor) -> Tensor:
    y = fmt.round(x / s, None).clamp(-fmt.top, fmt.top) * torch.where(s < _INF, s, 0.0)
    units = ((y - x) * per_unit).round().to(torch.int64)
    return (units * units).sum(1, keepdim=True)
