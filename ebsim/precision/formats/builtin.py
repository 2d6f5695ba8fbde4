"""The number formats that come with the package, as one table."""

from __future__ import annotations

import functools
import re
from typing import Any

from ebsim.errors import ConfigError
from ebsim.precision import rounding
from ebsim.precision.formats.number_format import NumberFormat


def _float(name: str, exponent: int, mantissa: int, top: float, **more: Any) -> NumberFormat:
    grid = functools.partial(rounding.float_grid, mantissa=mantissa, emin=2 - 2 ** (exponent - 1))
    bits, mac = 1 + exponent + mantissa, f"fp:{exponent},{mantissa}"
    return NumberFormat(name, bits, mac, top, grid, **more)


_FP32_MAX, _BF16_MAX = (2 - 2.0**-23) * 2.0**127, (2 - 2.0**-7) * 2.0**127
_EXMY = re.compile(r"e(\d)m(\d\d?)")
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
        _float("mxfp6_e3m2", 3, 2, 28.0, **_MX, about="MX: E3M2 elements, E8M0 scale per 32"),
        _float("mxfp6_e2m3", 2, 3, 7.5, **_MX, about="MX: E2M3 elements, E8M0 scale per 32"),
        _float("mxfp4", 2, 1, 6.0, **_MX, about="MX: E2M1 elements, E8M0 scale per 32"),
        _float(
            "nvfp4", 2, 1, 6.0, scaling="two_level", scale_bits=8, block=16,
            about="NVFP4: E2M1 elements, E4M3 scale per 16, fp32 scale per tensor",
        ),
        NumberFormat(
            "mxint8", 8, "bfp:8", 127, rounding.to_integer, **_MX,
            about="MX: INT8 elements (x 2^-6), E8M0 scale per 32",
        ),
    )
}  # fmt: skip

FP32 = BUILTIN["fp32"]


@functools.cache
def float_by_name(name: str) -> NumberFormat | None:
    """ "e3m4" and the like: a float of so many exponent and mantissa bits whose every code is a number; else None.

    (The two of OFP8 have codes for NaN and Inf and are built in.) One scale per tensor, the smallest power of two that
    does not clip.
    """
    found = _EXMY.fullmatch(name)
    if not found:
        return None
    exponent, mantissa = int(found[1]), int(found[2])
    if not (2 <= exponent <= 7 and 1 <= mantissa <= 22 and 1 + exponent + mantissa <= 24):
        raise ConfigError(f"number format {name!r}: 2 to 7 exponent bits, 1 to 22 mantissa bits, 24 bits in all")
    top = (2 - 2.0**-mantissa) * 2.0 ** (2 ** (exponent - 1))
    return _float(name, exponent, mantissa, top, **_POW2, about=f"float, {exponent} exponent, {mantissa} mantissa bits")
