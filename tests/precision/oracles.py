"""Slow, obvious re-implementations of the number formats: ml_dtypes casts and exact integer or rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np

DTYPES = {
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
}
TOP = {name: float(np.finfo(np.float16).max) if name == "fp16" else float(ml_dtypes.finfo(d).max)
       for name, d in DTYPES.items()}  # fmt: skip


def cast(x: np.ndarray, name: str) -> np.ndarray:
    """The documented semantics: finite values saturate, then ml_dtypes casts; Inf stays Inf, NaN stays NaN."""
    with np.errstate(all="ignore"):
        y = np.clip(x, -TOP[name], TOP[name]).astype(DTYPES[name]).astype(np.float32)
    return np.where(np.isfinite(x), y, x)


def interesting_floats(random: int = 1_000_000) -> np.ndarray:
    """All bf16 patterns, every midpoint of neighbouring E4M3/E5M2 values +- 1 ulp, random fp32 patterns."""
    bf16 = (np.arange(2**16, dtype=np.uint32) << 16).view(np.float32)
    parts = [bf16, np.random.default_rng(0).integers(0, 2**32, random, dtype=np.uint32).view(np.float32)]
    for name in ("e4m3", "e5m2"):
        codes = np.arange(256, dtype=np.uint8).view(DTYPES[name]).astype(np.float32)
        values = np.unique(codes[np.isfinite(codes)])
        # one step beyond the top as well: where rounding turns into overflow
        values = np.concatenate([values, [values[-1] * 2 - values[-2], values[0] * 2 - values[1]]])
        values = np.sort(values).astype(np.float32)
        middle = (values[1:] + values[:-1]) / 2
        inf = np.float32(np.inf)
        parts += [values, middle, np.nextafter(middle, inf), np.nextafter(middle, -inf)]
    return np.concatenate(parts).astype(np.float32)


def round_half_even(x: Fraction) -> int:
    below = x.numerator // x.denominator
    rest = x - below
    up = rest > Fraction(1, 2) or (rest == Fraction(1, 2) and below % 2 == 1)
    return below + up


def exponent(x: Fraction) -> int:
    """floor(log2 x) of a positive rational, by integers."""
    e = x.numerator.bit_length() - x.denominator.bit_length()
    return e if Fraction(2) ** e <= x else e - 1


def significant(x: Fraction, bits: int) -> Fraction:
    """x rounded to so many significant bits, ties to even."""
    unit = Fraction(2) ** (exponent(x) - bits + 1)
    return round_half_even(x / unit) * unit


def int8(row: list[float]) -> list[float]:
    """Symmetric absmax int8; the scale has 17 significant bits, code = RNE of the fp32 quotient."""
    amax = max(map(abs, row))
    if amax == 0:
        return row
    scale = significant(significant(Fraction(amax) / 127, 24), 17)
    found = []
    for x in row:
        quotient = abs(Fraction(x)) / scale
        code = round_half_even(significant(quotient, 24)) if quotient else 0
        found.append(math.copysign(float(min(127, code) * scale), x))
    return found


def block(row: list[float], mantissa_bits: int = 8) -> list[float]:
    """Block floating point: step 2^(floor(log2 absmax) - (bits - 2)), codes -127..127."""
    amax = max(map(abs, row))
    if amax == 0:
        return row
    step = Fraction(2) ** (exponent(Fraction(amax)) - (mantissa_bits - 2))
    top = 2 ** (mantissa_bits - 1) - 1
    codes = [min(top, round_half_even(abs(Fraction(x)) / step)) for x in row]
    return [math.copysign(float(code * step), x) for code, x in zip(codes, row, strict=True)]
