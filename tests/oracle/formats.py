"""Number formats by table look-up: every code decoded from its bits with rationals, every scale rule with integers.

Slow and obvious on purpose, and without a line of the package: a value is put on the nearest entry of a sorted table of
codes, ties to the code whose last bit is 0, and a scale is found by comparing powers of two as fractions.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from fractions import Fraction

OFP8 = {(4, 3): 448, (5, 2): 57344}  # the two whose top codes are NaN or Inf


def decode(code: int, exponent: int, mantissa: int) -> Fraction:
    """The magnitude that the bits EEE..MMM of a float without Inf and NaN mean."""
    bias = 2 ** (exponent - 1) - 1
    e, m = code >> mantissa, code & (2**mantissa - 1)
    if e == 0:
        return Fraction(m, 2**mantissa) * Fraction(2) ** (1 - bias)
    return (1 + Fraction(m, 2**mantissa)) * Fraction(2) ** (e - bias)


def float_table(exponent: int, mantissa: int) -> list[Fraction]:
    """Every finite magnitude of eXmY in the order of its codes, OFP8's two formats cut at their largest number."""
    every = [decode(code, exponent, mantissa) for code in range(2 ** (exponent + mantissa))]
    return [v for v in every if v <= OFP8.get((exponent, mantissa), math.inf)]


def integer_table(bits: int) -> list[Fraction]:
    """0 .. 2^(bits - 1) - 1: a symmetric integer."""
    return [Fraction(n) for n in range(2 ** (bits - 1))]


E2M1 = [Fraction(v) for v in ("0", "1/2", "1", "3/2", "2", "3", "4", "6")]


def nearest(x: Fraction, table: Sequence[Fraction]) -> Fraction:
    """The entry of a sorted table of magnitudes that is nearest to x >= 0, ties to the even code; saturates."""
    i = bisect.bisect_left(table, x)
    if i == 0 or i == len(table):
        return table[min(i, len(table) - 1)]
    below, above = x - table[i - 1], table[i] - x
    if below == above:
        return table[i] if i % 2 == 0 else table[i - 1]
    return table[i - 1] if below < above else table[i]


def neighbours(x: Fraction, table: Sequence[Fraction]) -> tuple[Fraction, Fraction]:
    """The entries around x >= 0 (twice the same on an entry and above the last): where stochastic rounding may go."""
    i = bisect.bisect_left(table, x)
    if i == len(table):
        return table[-1], table[-1]
    return (table[i], table[i]) if table[i] == x else (table[i - 1], table[i])


def floor_log2(x: Fraction) -> int:
    e = x.numerator.bit_length() - x.denominator.bit_length()
    return e if Fraction(2) ** e <= x else e - 1


def float32(x: Fraction) -> Fraction:
    """x >= 0 rounded to 24 significant bits, ties to even (no subnormals: the tests stay clear of them)."""
    return significant(x, 24)


def significant(x: Fraction, bits: int) -> Fraction:
    if x == 0:
        return x
    unit = Fraction(2) ** (floor_log2(x) - bits + 1)
    below = x // unit
    rest = x / unit - below
    return (below + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and below % 2 == 1))) * unit


def power_of_two_scale(amax: Fraction, table: Sequence[Fraction], rule: str, mantissa: int) -> Fraction:
    """The shared power-of-two scale of a block with absmax `amax` > 0.

    floor   2^(floor(log2 amax) - floor(log2 top))                            OCP MX 1.0
    ceil    2^(ceil(log2 amax) - floor(log2 top))
    even    floor, of amax rounded up by half a step of the element's mantissa
    rceil   the smallest power of two with amax / scale <= top                NVIDIA's MXFP8 recipe
    """
    top = table[-1]
    emax = floor_log2(top)
    if rule == "floor":
        return Fraction(2) ** (floor_log2(amax) - emax)
    if rule == "ceil":
        e = floor_log2(amax)
        return Fraction(2) ** (e + (Fraction(2) ** e != amax) - emax)
    if rule == "even":
        half = Fraction(2) ** (floor_log2(amax) - mantissa - 1)
        return Fraction(2) ** (floor_log2(amax + half) - emax)
    e = floor_log2(amax / top) - 1
    while amax / Fraction(2) ** e > top:
        e += 1
    return Fraction(2) ** e


def scaled(x: float, scale: Fraction, table: Sequence[Fraction]) -> float:
    """One value at one scale. Real scales divide in float32, as the definition of absmax says."""
    code = nearest(float32(abs(Fraction(x)) / scale), table)
    return math.copysign(float(code * scale), x)


def block(values: Sequence[float], table: Sequence[Fraction], rule: str, mantissa: int = 0) -> list[float]:
    """The values of one group that shares a scale."""
    amax = max(abs(Fraction(v)) for v in values)
    if amax == 0:
        return list(values)
    if rule == "absmax":
        scale = significant(float32(amax / table[-1]), 17)
    else:
        scale = power_of_two_scale(amax, table, rule, mantissa)
    return [scaled(v, scale, table) for v in values]


def nvfp4_scales(blocks: Sequence[Sequence[float]], whole: Fraction) -> list[Fraction]:
    """Two levels: E4M3 per block, times one real scale of the tensor with 17 significant bits; 0 for a lost block."""
    if whole == 0:
        return [Fraction(0)] * len(blocks)
    tensor = significant(float32(whole / (448 * 6)), 17)
    e4m3 = float_table(4, 3)
    found = []
    for values in blocks:
        amax = max(abs(Fraction(v)) for v in values)
        found.append(nearest(float32(float32(amax / 6) / tensor), e4m3) * tensor)
    return found


def nvfp4(blocks: Sequence[Sequence[float]]) -> list[list[float]]:
    """NVFP4 of a whole tensor given as its blocks (arXiv 2509.25149, appendix)."""
    whole = max(abs(Fraction(v)) for values in blocks for v in values)
    scales = nvfp4_scales(blocks, whole)
    return [
        [scaled(v, s, E2M1) if s else math.copysign(0.0, v) for v in values]
        for values, s in zip(blocks, scales, strict=True)
    ]


def rounded(x: Fraction) -> int:
    """The nearest integer, ties to even."""
    whole = x // 1
    rest = x - whole
    return int(whole + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1)))


def squared_error(values: Sequence[float], made: Sequence[float], amax: Fraction) -> int:
    """Sum of squares of the errors, each rounded to a float and then to whole units of 2^-22 of amax's power of two."""
    unit = Fraction(2) ** (floor_log2(amax) - 22)
    errors = (abs(Fraction(y) - Fraction(x)) for x, y in zip(values, made, strict=True))
    return sum(rounded(float32(e) / unit) ** 2 for e in errors)


def four_over_six(blocks: Sequence[Sequence[float]]) -> tuple[list[list[float]], int]:
    """NVFP4 whose blocks have an absmax of 6 or of 4, whichever errs less (arXiv 2512.02010); how many have 4.

    The scale of the tensor makes 256 of a block's E4M3 scale where the absmax is 6, so that 4 can have 384.
    """
    whole = max(abs(Fraction(v)) for values in blocks for v in values)
    tensor = significant(float32(whole / (256 * 6)), 17)
    e4m3, made, fours = float_table(4, 3), [], 0
    for values in blocks:
        amax, tried = max(abs(Fraction(v)) for v in values), []
        for largest in (6, 4):
            s = nearest(float32(float32(amax / largest) / tensor), e4m3) * tensor if whole else Fraction(0)
            tried.append([scaled(v, s, E2M1) if s else math.copysign(0.0, v) for v in values])
        errors = [squared_error(values, one, amax) if amax else 0 for one in tried]
        four = errors[1] < errors[0]
        fours += four
        made.append(tried[four])
    return made, fours


def hadamard(n: int) -> list[list[int]]:
    """Sylvester's matrix of +1 and -1, [n, n]: entry (i, j) is the parity of i & j."""
    return [[1 - 2 * ((i & j).bit_count() % 2) for j in range(n)] for i in range(n)]
