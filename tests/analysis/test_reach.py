"""What a correlation says of the study's mixes and tasks and of others: the words follow from p and the interval."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstudy.analysis.reach import EXCLUDES, INCLUDES, NEAR_ZERO, TOUCHES, interval_and_zero, scope, two_answers

ENDS = st.tuples(st.floats(-1, 1), st.floats(-1, 1)).map(sorted)


@pytest.mark.parametrize(
    ("low", "high", "relation"),
    [
        (-0.22, 0.99, INCLUDES),
        (0.0, 0.9, INCLUDES),
        (0.02, 0.99, TOUCHES),
        (-0.9, -0.03, TOUCHES),
        (0.26, 1.0, EXCLUDES),
        (-0.8, -0.1, EXCLUDES),
        (math.nan, math.nan, ""),
    ],
)
def test_an_interval_includes_0_touches_it_or_excludes_it(low: float, high: float, relation: str) -> None:
    assert interval_and_zero(low, high) == relation


@given(ENDS)
def test_the_sign_of_r_does_not_matter(ends: list[float]) -> None:
    low, high = ends
    assert interval_and_zero(low, high) == interval_and_zero(-high, -low)
    if interval_and_zero(low, high) == EXCLUDES:
        assert min(abs(low), abs(high)) > NEAR_ZERO


@pytest.mark.parametrize(("low", "is_open"), [(-0.3, True), (0.01, True), (0.3, False)])
def test_a_verdict_is_about_these_mixes_and_tasks_and_open_for_others_unless_the_interval_excludes_0(
    low: float, is_open: bool
) -> None:
    words = scope(low, 0.9)
    assert words.startswith("in these mixes and tasks; for others")
    assert ("open" in words) == is_open
    assert scope(math.nan, math.nan) == ""


@given(st.floats(0, 1), ENDS)
def test_each_question_is_answered_by_its_own_number(p_value: float, ends: list[float]) -> None:
    low, high = ends
    text = two_answers(p_value, low, high)
    assert ("the two are associated" in text) == (p_value < 0.05)
    assert ("no association is shown" in text) == (p_value >= 0.05)
    assert ("the interval includes 0" in text) == (low <= 0 <= high)
    assert ("as far as these are a sample" in text) == (interval_and_zero(low, high) == EXCLUDES)


def test_without_a_test_or_an_interval_nothing_is_said() -> None:
    assert two_answers(math.nan, 0.1, 0.9) == two_answers(0.01, math.nan, math.nan) == ""
