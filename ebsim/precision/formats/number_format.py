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
import difflib
import functools
import re
from collections.abc import Callable, Iterable
from typing import Any

from ebsim.errors import ConfigError
from ebsim.precision.formats import rounding

SCALINGS = ("none", "absmax", "pow2", "pow2_floor")
ROUNDINGS = ("nearest", "stochastic")
_MAC = re.compile(r"fp:\d+,\d+|(int|bfp):\d+")
_SHOWN = 24  # names in a message


@dataclasses.dataclass(frozen=True)
class NumberFormat:
    """A number format; registering one of these is all a plug-in does.

    name        unique, without spaces and slashes
    bits        width of one element; the conformance kit proves it by counting codes
    mac         operand class of the multiplier: "fp:E,M", "int:B" or "bfp:B"
    top         largest value of the grid at scale 1
    round       pure (x, u) -> grid value; u is None (nearest, ties to even) or uniform in [0, 1) (stochastic)
    scaling     "none", "absmax" (s = absmax / top), "pow2" (smallest power of two that does not clip) or
                "pow2_floor" (2^(floor(log2 absmax) - floor(log2 top)), as block floating point and MX do)
    scale_bits  width of one stored scale, 0 if there is none
    block       elements that share a scale: 0 = the whole tensor, "row" = one slice of dim 0 (output channel of a
                weight, sample of an activation), k = k neighbours along the axis that is summed over
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
            'block must be 0, "row" or a positive integer': not (
                self.block == "row" or (isinstance(self.block, int) and self.block >= 0)
            ),
            'mac must look like "fp:4,3", "int:8" or "bfp:8"': not _MAC.fullmatch(self.mac),
        }
        for problem, wrong in problems.items():
            if wrong:
                raise ConfigError(f"number format {self.name!r}: {problem}")

    def describe(self) -> dict[str, Any]:
        """The part the hardware model reads: plain data."""
        return {k: getattr(self, k) for k in ("bits", "mac", "scale_bits", "block")}


def _float(name: str, exponent: int, mantissa: int, top: float, **more: Any) -> NumberFormat:
    grid = functools.partial(rounding.float_grid, mantissa=mantissa, emin=2 - 2 ** (exponent - 1))
    bits, mac = 1 + exponent + mantissa, f"fp:{exponent},{mantissa}"
    return NumberFormat(name, bits, mac, top, grid, **more)


_FP32_MAX, _BF16_MAX = (2 - 2.0**-23) * 2.0**127, (2 - 2.0**-7) * 2.0**127
_PLAIN: dict[str, Any] = {"scaling": "none", "scale_bits": 0}
_POW2: dict[str, Any] = {"scaling": "pow2", "scale_bits": 8}
_MX: dict[str, Any] = {"scaling": "pow2_floor", "scale_bits": 8, "block": 32}

BUILTIN: dict[str, NumberFormat] = {
    f.name: f
    for f in (
        NumberFormat("fp32", 32, "fp:8,23", _FP32_MAX, rounding.keep, **_PLAIN, about="untouched"),
        NumberFormat("bf16", 16, "fp:8,7", _BF16_MAX, rounding.bfloat16, **_PLAIN, about="bfloat16"),
        _float("fp16", 5, 10, 65504.0, **_PLAIN, about="IEEE binary16, saturating, unscaled"),
        _float("e4m3", 4, 3, 448.0, **_POW2, about="OFP8 E4M3 (fn), power-of-two scale"),
        _float("e5m2", 5, 2, 57344.0, **_POW2, about="OFP8 E5M2, power-of-two scale"),
        NumberFormat("int8", 8, "int:8", 127, rounding.to_integer, about="symmetric, -127..127"),
        NumberFormat(
            "bfp8", 8, "bfp:8", 127, rounding.to_integer, "pow2_floor", 8, "row",
            about="8-bit mantissas, one exponent per slice of dim 0 (SWALP)",
        ),
        _float("mxfp8", 4, 3, 448.0, **_MX, about="MX: E4M3 elements, E8M0 scale per 32"),
        _float("mxfp8_e5m2", 5, 2, 57344.0, **_MX, about="MX: E5M2 elements, E8M0 scale per 32"),
        NumberFormat(
            "mxint8", 8, "bfp:8", 127, rounding.to_integer, **_MX,
            about="MX: INT8 elements (x 2^-6), E8M0 scale per 32",
        ),
    )
}  # fmt: skip

FP32 = BUILTIN["fp32"]


@dataclasses.dataclass(frozen=True)
class Operand:
    """A format and how values are rounded into it; written "e5m2" or "bfp8/row stochastic"."""

    format: NumberFormat
    stochastic: bool = False

    @property
    def untouched(self) -> bool:
        return self.format.name == "fp32"

    @property
    def rounding(self) -> str:
        return ROUNDINGS[self.stochastic]

    def __str__(self) -> str:
        return self.format.name + (" stochastic" if self.stochastic else "")


def nearest_name(name: str, known: Iterable[str]) -> str:
    """' - did you mean ...?' or the list of what there is."""
    known = sorted(set(known))
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    more = ", ..." if len(known) > _SHOWN else ""
    return f"; did you mean {close[0]!r}?" if close else f"; there is: {', '.join(known[:_SHOWN])}{more}"


def find_format(spec: str | NumberFormat) -> NumberFormat:
    """A format by name, with an optional variant: "int8/row", "e4m3/unscaled", "bfp8/16", "int8/tensor".

    Names come from the built-in table, from installed plug-ins, or "path/to/file.py:NAME".
    """
    if isinstance(spec, NumberFormat):
        return spec
    from ebsim.precision import plugins

    base, variant = spec, ""
    if ".py:" not in spec:
        name, _, how = spec.partition(" ")
        if how in ROUNDINGS:
            raise ConfigError(f'{spec!r}: a format is named without its rounding here: {name!r}, rounding="{how}"')
        if how:
            raise ConfigError(f"unknown rounding {how!r} in {spec!r}{nearest_name(how, ROUNDINGS)}")
        base, _, variant = spec.partition("/")
    found = BUILTIN.get(base) or plugins.load("formats", base)
    if found is None:
        known = [*BUILTIN, *plugins.origins("formats")]
        raise ConfigError(f"unknown number format {base!r}{nearest_name(base, known)}")
    if not isinstance(found, NumberFormat):
        raise ConfigError(f"{base!r} is a {type(found).__name__}, not an ebsim.precision.NumberFormat")
    if BUILTIN.get(found.name, found) != found:
        raise ConfigError(f"{base!r} is called {found.name!r}, which is built in: rename it")
    return _variant(found, variant) if variant else found


def _variant(fmt: NumberFormat, variant: str) -> NumberFormat:
    if variant == "unscaled":
        new: dict[str, Any] = {"scaling": "none", "scale_bits": 0, "block": 0}
    elif variant in ("tensor", "row", "channel") or variant.isdigit():
        block = {"tensor": 0, "row": "row", "channel": "row"}.get(variant)
        new = {"block": int(variant) if block is None else block}
    else:
        raise ConfigError(
            f"unknown variant {fmt.name}/{variant}: use tensor, row (= channel), unscaled or a block length"
        )
    if all(getattr(fmt, k) == v for k, v in new.items()):
        return fmt
    suffix = "row" if variant == "channel" else variant
    return dataclasses.replace(fmt, name=f"{fmt.name}/{suffix}", **new)


def operand(spec: str) -> Operand:
    """Parse "FORMAT[/VARIANT] [nearest|stochastic]"."""
    words = spec.rsplit(" ", 1) if spec.endswith(ROUNDINGS) else [spec]
    if len(words) == 2 and words[1] not in ROUNDINGS:
        words = [spec]
    return Operand(find_format(words[0].strip()), words[-1] == "stochastic")
