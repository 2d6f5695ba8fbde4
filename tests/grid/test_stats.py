"""Statistics against scipy's own tests and values worked out by hand."""

from __future__ import annotations

import math

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from ebsim.report.comparison import stats

numbers = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))


def test_by_hand() -> None:
    found = stats.sample([2.0, 4.0, 6.0])
    assert (found.n, found.mean, found.sd) == (3, 4.0, 2.0)
    # t(0.975, 2) = 4.302653 (tables); half-width 4.302653 * 2 / sqrt(3)
    assert found.half == pytest.approx(4.302653 * 2 / math.sqrt(3), rel=1e-6)
    assert (found.low, found.high) == (found.mean - found.half, found.mean + found.half)


def test_two_values_have_the_wide_interval_of_one_degree_of_freedom() -> None:
    found = stats.sample([0.97, 0.98])
    # standard error 0.005, t(0.975, 1) = 12.7062
    assert found.half == pytest.approx(12.7062 * 0.005, rel=1e-5)


def test_one_value_has_no_spread() -> None:
    found = stats.sample([0.5])
    assert (found.n, found.mean, found.sd, found.half, found.low, found.high) == (1, 0.5, None, None, None, None)
    assert stats.paired([0.5], [0.25]) == stats.Paired(stats.Sample(1, 0.25, None, None), None, None)


def test_equal_values_keep_their_bits_and_have_no_spread() -> None:
    found = stats.sample([0.1, 0.1, 0.1])
    assert (found.mean, found.sd, found.half) == (0.1, 0.0, 0.0)


def test_equal_differences_cannot_be_tested() -> None:
    found = stats.paired([2.0, 3.0, 5.0], [1.0, 2.0, 4.0])
    assert (found.difference.mean, found.p, found.effect, found.n) == (1.0, None, None, 3)


def test_differences_that_rounding_alone_tells_apart_cannot_be_tested() -> None:
    x, y = [442 / 450, 438 / 450], [444 / 450, 440 / 450]
    assert x[0] - y[0] != x[1] - y[1]
    found = stats.paired(x, y)
    assert (found.p, found.difference.sd, found.n) == (None, 0.0, 2)
    assert found.difference.mean == pytest.approx(-2 / 450)


def test_nothing_and_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError):
        stats.sample([])
    with pytest.raises(ValueError):
        stats.paired([1.0], [1.0, 2.0])


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=12), st.sampled_from([0.9, 0.95, 0.99]))
def test_against_scipy(pairs: list[tuple[float, float]], level: float) -> None:
    x, y = [a for a, _ in pairs], [b for _, b in pairs]
    differences = [a - b for a, b in pairs]
    if len({round(value, 9) for value in differences}) == 1:
        return  # scipy warns of cancellation there; ours is tested above
    own, theirs = stats.paired(x, y, level), scipy.stats.ttest_rel(x, y)
    low, high = theirs.confidence_interval(level)
    assert own.p == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)
    assert own.difference.low == pytest.approx(low, rel=1e-6, abs=1e-6)
    assert own.difference.high == pytest.approx(high, rel=1e-6, abs=1e-6)
    assert own.effect * math.sqrt(own.n) == pytest.approx(theirs.statistic, rel=1e-6, abs=1e-9)
