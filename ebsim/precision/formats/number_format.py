"""Number formats: which values a width can hold, as data and one pure rounding function each.

A tensor is cut into groups that share one scale; inside a group the value kept is

    Q(x) = clamp(round(x / s), -top, top) * s        s = s(absmax of the group)

`round` maps onto the format's grid at scale 1, `top` is the grid's largest value. The quantizer, not the format,
does everything else, once for all formats: the groups, the absmax, saturation, and the non-finite values (NaN stays
NaN, Inf stays Inf and neither enters the absmax).

Sources: OCP 8-bit Floating Point (OFP8) 1.0 for e4m3 (the "fn" one: no Inf, largest 448) and e5m2; OCP Microscaling
(MX) 1.0 for the mx formats; SWALP (Yang et al., 2019) for bfp8.

This module does not import torch, so that names can be checked where torch is not needed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from ebsim.errors import ConfigError

SCALINGS = (
    "none", "absmax", "pow2", "pow2_floor", "pow2_ceil", "pow2_even", "two_level", "four_over_six", "delayed",
)  # fmt: skip
HISTORY = 16  # steps that a delayed scale looks back
TILE = re.compile(r"([1-9]\d*)x([1-9]\d*)")
ROUNDINGS = ("nearest", "stochastic")
_MAC = re.compile(r"fp:\d+,\d+|(int|bfp):\d+")


@dataclasses.dataclass(frozen=True)
class NumberFormat:
    """A number format; registering one of these is all a plug-in does.

    name        unique, without spaces and slashes
    bits        width of one element; the conformance kit proves it by counting codes
    mac         operand class of the multiplier: "fp:E,M", "int:B" or "bfp:B"
    top         largest value of the grid at scale 1
    round       pure (x, u) -> grid value; u is None (nearest, ties to even) or uniform in [0, 1) (stochastic)
    scaling     "none"; "absmax" (s = absmax / top); a power of two: "pow2" (the smallest that does not clip, rceil),
                "pow2_floor" (2^(floor(log2 absmax) - floor(log2 top)), as block floating point and MX do), "pow2_ceil"
                (the same with ceil(log2 absmax)), "pow2_even" (absmax rounded to the element's mantissa, then floor);
                "delayed" (pow2 of the largest absmax of the last 16 steps, without this one: larger values clip);
                "two_level" (an E4M3 number per block, times one real scale of the whole tensor, as NVFP4 has);
                or "four_over_six" (two_level, the absmax of a block made 6 or 4, whichever has the smaller error)
    scale_bits  width of one stored scale, 0 if there is none
    block       elements that share a scale: 0 = the whole tensor, "row" = one slice of dim 0 (output channel of a
                weight, sample of an activation), k = k neighbours along the axis that is summed over, "16x16" = a tile
                of dim 0 and dim 1 (of a weight: outputs x inputs), the same for every pass
    """

    name: str
    bits: int
    mac: str
    top: float
    round: Callable[[Any, Any], Any]
    scaling: str = "absmax"
    scale_bits: int = 32
    block: int | str = 0
    about: str = ""

    def __post_init__(self) -> None:
        problems = {
            "name must be one word without '/'": not self.name.replace("/", "x").isidentifier(),
            f"scaling must be one of {', '.join(SCALINGS)}": self.scaling not in SCALINGS,
            "bits must be 1..32": not 1 <= self.bits <= 32,
            "top must be positive": not self.top > 0,
            "four_over_six scales are for E2M1 (largest 6) in blocks": self.scaling == "four_over_six"
            and (self.top != 6 or self.block == 0),
            'block must be 0, "row", a positive integer or a tile such as "16x16"': not (
                self.block == "row" or self.tile or (isinstance(self.block, int) and self.block >= 0)
            ),
            'mac must look like "fp:4,3", "int:8" or "bfp:8"': not _MAC.fullmatch(self.mac),
        }
        for problem, wrong in problems.items():
            if wrong:
                raise ConfigError(f"number format {self.name!r}: {problem}")

    @property
    def tile(self) -> tuple[int, int] | None:
        """Rows and columns of a two-dimensional block; None for any other."""
        found = TILE.fullmatch(self.block) if isinstance(self.block, str) else None
        return (int(found[1]), int(found[2])) if found else None

    @property
    def mantissa(self) -> int:
        """Stored mantissa bits of its multiplier's operands; of an integer, the bits below its leading one."""
        kind, _, numbers = self.mac.partition(":")
        return int(numbers.split(",")[1]) if kind == "fp" else int(numbers) - 2

    @property
    def two_level(self) -> bool:
        """Whether blocks have an E4M3 scale each beside the real one of the whole tensor."""
        return self.scaling in ("two_level", "four_over_six")

    @property
    def trials(self) -> int:
        """How many scales are tried for each group."""
        return 2 if self.scaling == "four_over_six" else 1

    @property
    def blocked(self) -> bool:
        """Whether its blocks run along the axis that a pass sums over, and so differ from pass to pass."""
        return isinstance(self.block, int) and self.block > 0

    def describe(self) -> dict[str, Any]:
        """The part the hardware model reads: plain data; of a tile the number of its elements."""
        block = self.tile[0] * self.tile[1] if self.tile else self.block
        trials = {"trials": self.trials} if self.trials > 1 else {}
        return {"bits": self.bits, "mac": self.mac, "scale_bits": self.scale_bits, "block": block, **trials}


@dataclasses.dataclass(frozen=True)
class Operand:
    """A format and how values are rounded into it; written "e5m2" or "bfp8/row stochastic"."""

    format: NumberFormat
    stochastic: bool = False
    hadamard: bool = False  # along the samples, in the product of the weight gradient, before it is rounded
    clipped: bool = False  # the derivative of rounding is 0 where saturation cut a value, and not 1
    spec: str = dataclasses.field(default="", compare=False)  # as it was written, a plug-in's path included

    @property
    def untouched(self) -> bool:
        return self.format.name == "fp32"

    @property
    def rounding(self) -> str:
        return ROUNDINGS[self.stochastic]

    def __str__(self) -> str:
        words = {"hadamard": self.hadamard, "stochastic": self.stochastic, "clipped": self.clipped}
        return " ".join([self.format.name, *(word for word, said in words.items() if said)])

    def rounds_as(self, other: Operand | None) -> bool:
        """Whether both give the same values, whatever their derivatives."""
        return other is not None and dataclasses.replace(self, clipped=False) == dataclasses.replace(
            other, clipped=False
        )
