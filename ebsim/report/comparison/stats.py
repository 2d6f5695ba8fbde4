"""Mean, spread and paired tests over seeds, as pure functions.

A few seeds say little, and these figures say how little: the interval is Student's t (Gosset 1908), mean +-
t(level, n - 1) * sd / sqrt(n), which is wide for small n and unknown for n = 1. Two methods that were run with the
same seeds are compared by the paired t-test, on the differences seed by seed: what a seed does to both of them
cancels. The effect size is Cohen's d of the differences, their mean in units of their standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True)
class Sample:
    """What n values say: `sd` (n - 1 in the denominator) and `half` (of the t-interval) are None for n = 1."""

    n: int
    mean: float
    sd: float | None
    half: float | None

    @property
    def low(self) -> float | None:
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        return None if self.half is None else self.mean + self.half


@dataclass(frozen=True)
class Paired:
    """Differences x - y over n pairs; `p` (two-sided) and `effect` are None where there is no spread to test by."""

    difference: Sample
    p: float | None
    effect: float | None

    @property
    def n(self) -> int:
        return self.difference.n


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean, summed exactly. Raises `ValueError` for no values."""
    if not values:
        raise ValueError("the mean of no values is not defined")
    if min(values) == max(values):
        return float(values[0])  # the mean of equal values is that value, to the last bit
    return math.fsum(values) / len(values)


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1); None for one value."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def quantile(n: int, level: float = LEVEL) -> float:
    """t with n - 1 degrees of freedom such that +- t encloses `level`."""
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, n - 1))


def sample(values: Sequence[float], level: float = LEVEL) -> Sample:
    """Mean, standard deviation and half-width of the t-interval of one value per seed."""
    sd = deviation(values)
    half = None if sd is None else quantile(len(values), level) * sd / math.sqrt(len(values))
    return Sample(len(values), mean(values), sd, half)


def paired(x: Sequence[float], y: Sequence[float], level: float = LEVEL) -> Paired:
    """Paired t-test of x against y, one pair per seed. Raises `ValueError` if the lengths differ or there is no pair.

    With one pair, or differences that are all the same, there is no spread to hold the mean against: p is None.
    """
    differences = [a - b for a, b in zip(x, y, strict=True)]
    # 442/450 - 440/450 and 438/450 - 436/450 differ in the last bit: that is no spread, and t would be infinite.
    noise = 1e-12 * max(map(abs, [*x, *y]), default=0.0)
    if differences and max(differences) - min(differences) <= noise:
        differences = [mean(differences)] * len(differences)
    found = sample(differences, level)
    if not found.sd:
        return Paired(found, None, None)
    from scipy.stats import t

    effect = found.mean / found.sd
    statistic = effect * math.sqrt(found.n)
    return Paired(found, float(2 * t.sf(abs(statistic), found.n - 1)), effect)
