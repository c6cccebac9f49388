"""Intervals of shares and of their changes: against statsmodels and scipy, and how often they cover."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from midstudy.analysis.share_intervals import paired_change, wilson_interval

cells = st.tuples(*[st.integers(0, 40)] * 4).filter(any)


def outcomes(both: int, gained: int, lost: int, neither: int) -> tuple[list[int], list[int]]:
    """Return 1 or 0 of each item at the first and at the second state."""
    first = [1] * both + [0] * gained + [1] * lost + [0] * neither
    return first, [1] * both + [1] * gained + [0] * lost + [0] * neither


@given(st.integers(1, 3_000), st.data())
def test_the_interval_of_a_share_is_that_of_statsmodels(num_items: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, num_items))
    expected = proportion_confint(right, num_items, method="wilson")
    assert wilson_interval(right / num_items, num_items) == pytest.approx(expected, abs=1e-12)
    low, high = wilson_interval(right / num_items, num_items)
    assert 0 <= low <= right / num_items <= high <= 1


def test_the_interval_of_a_published_example() -> None:
    """15 of 148 (Newcombe, Statistics in Medicine 17, 1998, table I, method 3)."""
    assert wilson_interval(15 / 148, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)


def test_a_share_that_is_not_known_has_no_interval() -> None:
    assert all(map(math.isnan, wilson_interval(math.nan, 10)))


@given(cells)
def test_the_p_value_is_that_of_mcnemars_exact_test(counts: tuple[int, int, int, int]) -> None:
    both, gained, lost, neither = counts
    found = paired_change(*outcomes(*counts))
    assert found.p_value == pytest.approx(mcnemar([[both, lost], [gained, neither]], exact=True).pvalue)
    if gained + lost:
        assert found.p_value == pytest.approx(stats.binomtest(gained, gained + lost).pvalue)
    assert (found.num_better, found.num_worse, found.num_items) == (gained, lost, sum(counts))


@given(cells)
def test_the_interval_of_a_change_is_walds_with_half_an_item_more_in_each_cell(counts: tuple[int, int, int, int]) -> None:
    both, gained, lost, neither = (number + 0.5 for number in counts)
    number = both + gained + lost + neither
    p, q = gained / number, lost / number
    half_width = stats.norm.ppf(0.975) * math.sqrt((p + q - (p - q) ** 2) / number)
    found = paired_change(*outcomes(*counts))
    assert found.change == pytest.approx((counts[1] - counts[2]) / sum(counts))
    assert (found.low, found.high) == pytest.approx((max(-1, p - q - half_width), min(1, p - q + half_width)), abs=1e-12)


@pytest.mark.parametrize(("gained", "lost", "most"), [(0.1, 0.1, 0.98), (0.3, 0.1, 0.98), (0.05, 0.0, 1), (0.5, 0.2, 0.98)])
def test_the_interval_of_a_change_covers_it(gained: float, lost: float, most: float) -> None:
    """Over all outcomes of 30 items with these probabilities of a gain and of a loss."""
    covered = 0.0
    for better, worse in product(range(31), repeat=2):
        if better + worse <= 30:
            counts = [better, worse, 30 - better - worse]
            found = paired_change(*outcomes(0, better, worse, counts[2]))
            if found.low <= gained - lost <= found.high:
                covered += float(stats.multinomial.pmf(counts, 30, [gained, lost, 1 - gained - lost]))
    assert 0.93 < covered < most


def test_means_of_samples_count_by_their_sign() -> None:
    first, second = np.array([0.0, 1 / 3, 2 / 3, 1.0]), np.array([1 / 3, 1.0, 1 / 3, 1.0])
    found = paired_change(first, second)
    assert (found.num_better, found.num_worse) == (2, 1)
    assert found.change == pytest.approx((second - first).mean())
    assert found.p_value == pytest.approx(1.0)


def test_what_is_not_paired_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"expected two values for each .* got shapes \(2,\) and \(3,\)"):
        paired_change([0, 1], [0, 1, 1])
    with pytest.raises(ValueError, match="at least one item"):
        paired_change([], [])
    with pytest.raises(ValueError, match="expected values of 0 to 1"):
        paired_change([math.nan], [1])
