"""Small-sample statistics against scipy, textbook values and hand calculation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from midstudy.analysis.intervals import holm, mean_interval

losses = st.lists(st.tuples(st.floats(1, 6), st.floats(1, 6)), min_size=2, max_size=8).filter(
    lambda pairs: np.std([a - b for a, b in pairs], ddof=1) > 1e-6
)


@given(pairs=losses)
def test_a_mean_interval_of_differences_is_the_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    control, arm = np.array(pairs).T
    found = mean_interval(control - arm)
    expected = stats.ttest_rel(control, arm)
    assert found.p_value == pytest.approx(expected.pvalue, abs=1e-12)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert (found.n, found.note) == (len(pairs), "")


def test_three_values_by_hand() -> None:
    # Mean 0.5, standard deviation 0.04, t(0.975, 2) = 4.303: half width 4.303 · 0.04 / √3.
    found = mean_interval([0.50, 0.54, 0.46])
    assert found.mean == pytest.approx(0.5)
    assert found.high - found.mean == pytest.approx(4.303 * 0.04 / math.sqrt(3), rel=1e-3)


def test_one_value_has_no_interval_and_says_so() -> None:
    found = mean_interval([0.4])
    assert found.mean == 0.4
    assert math.isnan(found.low)
    assert math.isnan(found.p_value)
    assert found.note == "one seed: no interval"


@pytest.mark.parametrize("values", [[0.3, 0.3, 0.3], [0.0, 0.0]])
def test_values_that_do_not_vary_have_no_interval(values: list[float]) -> None:
    found = mean_interval(values)
    assert found.mean == pytest.approx(values[0])
    assert math.isnan(found.low)
    assert "no variation" in found.note


def test_no_value_at_all() -> None:
    assert mean_interval([]).n == 0


def test_holm_textbook_example() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_untested_values_out_of_the_family() -> None:
    found = holm([0.01, math.nan, 0.04])
    assert found[0] == pytest.approx(0.02)
    assert math.isnan(found[1])
    assert found[2] == pytest.approx(0.04)


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_never_lowers_a_p_value_keeps_the_order_and_stays_below_bonferroni(p: list[float]) -> None:
    found = holm(p)
    assert (found >= np.array(p) - 1e-15).all()
    assert (found <= np.minimum(1, len(p) * np.array(p)) + 1e-15).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(found[order]) >= 0).all()
