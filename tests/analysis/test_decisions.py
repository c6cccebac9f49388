"""Tests of claims against scipy's t tests, and the rules for claims on several cells."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from midstudy.analysis.decisions import Decision, decision_p, favours, for_all, t_decision
from midstudy.analysis.intervals import mean_interval

samples = st.lists(st.floats(-1, 1), min_size=2, max_size=8).filter(lambda values: max(values) - min(values) > 1e-3)
margins = st.floats(0.01, 1)


def decide(values: list[float], holds: str, margin: float) -> Decision:
    found = mean_interval(values)
    return t_decision(found.mean, found.error, found.n - 1, holds=holds, margin=margin)


@given(values=samples, margin=margins)
def test_a_directional_decision_is_the_pair_of_one_sided_t_tests(values: list[float], margin: float) -> None:
    greater, less = (
        stats.ttest_1samp(values, margin, alternative=alternative).pvalue for alternative in ("greater", "less")
    )
    above, below = decide(values, "above", margin), decide(values, "below", margin)
    assert (above.p_holds, above.p_fails) == (pytest.approx(greater, abs=1e-12), pytest.approx(less, abs=1e-12))
    assert below == Decision(above.p_fails, above.p_holds)


@given(values=samples, margin=margins)
def test_a_directional_claim_is_decided_exactly_where_the_95_percent_interval_excludes_the_margin(
    values: list[float], margin: float
) -> None:
    found = mean_interval(values)
    decision = decide(values, "above", margin)
    excluded = found.low > margin or found.high < margin
    assert (decision_p(decision, holds="above") < 0.05) == excluded
    if excluded:
        assert favours(decision) == (found.low > margin)


@given(values=samples, margin=margins)
def test_equivalence_holds_exactly_where_the_90_percent_interval_lies_within(values: list[float], margin: float) -> None:
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.90)
    assert (decide(values, "within", margin).p_holds < 0.05) == (-margin < low and high < margin)


@given(values=samples, margin=margins)
def test_equivalence_fails_exactly_where_the_95_percent_interval_lies_outside(values: list[float], margin: float) -> None:
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (decide(values, "within", margin).p_fails < 0.05) == (low > margin or high < -margin)


@pytest.mark.parametrize("holds", ["above", "below", "within"])
@pytest.mark.parametrize("values", [[], [0.4], [0.3, 0.3, 0.3]])
def test_no_variation_and_a_single_value_decide_nothing(values: list[float], holds: str) -> None:
    decision = decide(values, holds, 0.1)
    assert math.isnan(decision.p_holds)
    assert math.isnan(decision.p_fails)
    assert math.isnan(decision_p(decision, holds=holds))


def test_a_claim_on_all_holds_by_the_largest_p_and_fails_by_the_smallest_times_their_number() -> None:
    found = for_all([Decision(0.01, 0.99), Decision(0.04, 0.96), Decision(0.02, 0.005)])
    assert (found.p_holds, found.p_fails) == (0.04, pytest.approx(0.015))


def test_an_untested_cell_keeps_a_claim_on_all_from_holding_not_from_failing() -> None:
    found = for_all([Decision(0.99, 0.001), Decision()])
    assert math.isnan(found.p_holds)
    assert found.p_fails == 0.001
    assert not favours(found)
    assert math.isnan(for_all([]).p_holds)
    assert math.isnan(for_all([]).p_fails)


def test_directions_are_two_sided_and_equivalence_is_at_its_own_level() -> None:
    assert decision_p(Decision(0.03, 0.97), holds="above") == pytest.approx(0.06)
    assert decision_p(Decision(0.6, 0.7), holds="below") == 1.0
    assert decision_p(Decision(0.03, 0.97), holds="within") == 0.03
