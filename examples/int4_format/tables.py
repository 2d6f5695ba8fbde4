"""Two formats without a formula for their grid, as tables of codes: logarithmic numbers and posits.

    precision.plugins = ["../examples/int4_format/tables.py:LNS4", "../examples/int4_format/tables.py:POSIT8"]

Both are decoded to bfloat16 before they are multiplied: that is the operand class they declare and are priced as.
"""

import functools
import math

from ebsim.precision import NumberFormat
from ebsim.precision.rounding import to_table


def bf16(value: float) -> float:
    """The nearest number with eight significant bits."""
    if value == 0:
        return value
    power = 2.0 ** (7 - math.floor(math.log2(value)))
    return round(value * power) / power


def posit(code: int, bits: int = 8, es: int = 1) -> float:
    """The magnitude of a positive posit code: regime (a run of equal bits), `es` exponent bits, fraction."""
    text = f"{code:0{bits - 1}b}"
    run = len(text) - len(text.lstrip(text[0]))
    regime = run - 1 if text[0] == "1" else -run
    rest = text[run + 1 :]
    exponent = int(rest[:es].ljust(es, "0"), 2)
    fraction = int(rest[es:], 2) / 2 ** len(rest[es:]) if rest[es:] else 0.0
    return 2.0 ** (regime * 2**es + exponent) * (1 + fraction)


# seven steps of a factor sqrt(2), and zero
LNS = (0.0, *(bf16(2.0 ** (k / 2)) for k in range(-6, 1)))
POSITS = (0.0, *(posit(code) for code in range(1, 128)))

LNS4 = NumberFormat(
    "lns4", 4, "fp:8,7", LNS[-1], functools.partial(to_table, values=LNS), "pow2", 8, "row",
    about="4-bit logarithmic numbers, steps of sqrt 2",
)  # fmt: skip
POSIT8 = NumberFormat(
    "posit8", 8, "fp:8,7", POSITS[-1], functools.partial(to_table, values=POSITS), "none", 0, 0,
    about="posit<8,1>, unscaled",
)  # fmt: skip
