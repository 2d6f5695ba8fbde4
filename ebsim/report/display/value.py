"""Numbers with their units: the one place where a value becomes text.

A `Value` keeps the number beside its text, so that HTML carries both (`<data value="0.975">97.5 %</data>`), a
table can be sorted by the number, and a test can follow every shown number back to the file it came from.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from dataclasses import dataclass

_PREFIXES = {-12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E"}


@dataclass(frozen=True)
class Value:
    """A number and how it is written; `raw` is in base units (J, s, 1)."""

    raw: float
    text: str

    def __str__(self) -> str:
        return self.text

    def __html__(self) -> str:
        return f'<data value="{html.escape(repr(self.raw))}">{html.escape(self.text)}</data>'


@dataclass(frozen=True)
class Scale:
    """A unit with an SI prefix: shown = raw / factor."""

    factor: float
    unit: str

    def value(self, raw: float, digits: int = 3) -> Value:
        """The bare number in this unit; the unit itself stands in the heading."""
        return Value(raw, significant(raw / self.factor, digits))


def significant(number: float, digits: int = 3) -> str:
    """`digits` significant digits, never an exponent, integers never cut: 12.3, 0.00457, 1234."""
    if number == 0:
        return "0"
    if not math.isfinite(number):
        return str(number)
    rounded = float(f"{number:.{digits - 1}e}")
    places = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{number:.{places}f}"


def scale(numbers: Iterable[float | None], unit: str) -> Scale:
    """One prefix for a whole column or axis, chosen so that its largest number lies in [1, 1000)."""
    largest = max((abs(number) for number in numbers if number is not None), default=0.0)
    if largest == 0 or not math.isfinite(largest):
        return Scale(1.0, unit)
    rounded = float(f"{largest:.2e}")
    power = min(18, max(-12, 3 * math.floor(math.log10(rounded) / 3 + 1e-12)))
    return Scale(10.0**power, _PREFIXES[power] + unit)


def quantity(raw: float, unit: str, digits: int = 3) -> Value:
    """A number with its own prefix: 12.3 kJ, 1.06 M, 154 M."""
    own = scale([raw], unit)
    return Value(raw, f"{significant(raw / own.factor, digits)} {own.unit}".strip())


def fixed(number: float, places: int, sign: str = "") -> str:
    """So many decimals, and never a minus before what is shown as nought."""
    return f"{number:{sign}z.{places}f}"


def percent(fraction: float, places: int = 1) -> Value:
    return Value(fraction, f"{fixed(100 * fraction, places)} %")


def between(low: Value, high: Value) -> tuple[Value | str, ...]:
    """An interval: 9–25, and -9 to 25 where a minus beside the dash would be misread."""
    return low, " to " if "-" in (low.text[:1], high.text[:1]) else "–", high


def count(number: float) -> Value:
    """An integer in full, thousands apart."""
    return Value(number, f"{number:,.0f}")


def counted(number: int, what: str) -> str:
    """1 run, 2 runs."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def times(factor: float) -> Value:
    return Value(factor, f"{significant(factor, 2 if factor < 10 else 3)}×")


def duration(seconds: float) -> Value:
    """Wall clock in the unit a person would use."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return Value(seconds, f"{significant(seconds / size, 2 if seconds < 10 * size else 3)} {unit}")
    return quantity(seconds, "s")
