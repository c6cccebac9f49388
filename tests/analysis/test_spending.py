"""Alpha spending: published boundaries, the error of simulated studies, and p values corrected for looks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from midstudy.analysis.decisions import ALPHA
from midstudy.analysis.spending import corrected_for_looks, levels, spent

LAN_DEMETS = {
    4: (4.3326, 2.9631, 2.3590, 2.0141),
    5: (4.8769, 3.3569, 2.6803, 2.2898, 2.0310),
}
"""Boundaries of Lan and DeMets like those of O'Brien and Fleming, two-sided, 0.05, at equal looks, as the program ld98 of
Reboussin, DeMets, Kim and Lan (Control. Clin. Trials 21, 2000) and its port to R, ldbounds, compute them."""


@pytest.mark.parametrize("num_looks", LAN_DEMETS)
@pytest.mark.parametrize("sides", [1, 2])
def test_boundaries_at_equal_looks_are_the_published_ones(num_looks: int, sides: int) -> None:
    looks = range(1, num_looks + 1)
    found = levels(0.025 * sides, [look / num_looks for look in looks], [2 * look for look in looks], sides=sides)
    assert stats.norm.isf(found / sides) == pytest.approx(LAN_DEMETS[num_looks], abs=1e-3)


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, 0.0), (0.25, 7.4e-6), (0.5, 0.0015), (0.75, 0.0096), (1.0, 0.025)])
def test_the_error_spent_is_the_published_one(fraction: float, expected: float) -> None:
    """Lan and DeMets 1983; the numbers at quarters are in every table of this spending function at 0.025, one-sided."""
    assert spent(0.025, fraction, sides=1) == pytest.approx(expected, rel=0.02)


def crossed(rng: np.random.Generator, alpha: float, fractions: list[float], seeds: list[int], sides: int) -> float:
    """The share of simulated Brownian motions without drift that cross at some look."""
    steps = np.diff([0, *seeds])
    path = np.cumsum(rng.normal(size=(400_000, len(seeds))) * np.sqrt(steps), axis=1) / np.sqrt(seeds)
    p = stats.norm.sf(path) if sides == 1 else 2 * stats.norm.sf(np.abs(path))
    return float(np.mean(np.any(p <= levels(alpha, fractions, seeds, sides=sides), axis=1)))


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize(
    ("fractions", "seeds"),
    [
        ([3 / 8, 5 / 8, 1.0], [3, 5, 8]),
        ([0.5, 0.6, 1.0], [3, 4, 9]),  # spent by another clock than the claim's own seeds
        ([0.2, 0.9, 0.9, 1.0], [2, 9, 10, 11]),
        ([1.0], [5]),
    ],
)
def test_the_error_over_all_looks_is_the_level(fractions: list[float], seeds: list[int], sides: int) -> None:
    found = crossed(np.random.default_rng(3), 0.05, fractions, seeds, sides)
    assert found == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 400_000))


def test_nothing_is_left_after_everything_is_spent() -> None:
    assert levels(0.05, [0.5, 1.0, 1.0], [4, 8, 12])[-1] == 0.0
    assert corrected_for_looks([1e-9], [0.5, 1.0, 1.0], [4, 8, 12]) == [1.0]


def test_a_look_far_too_early_rejects_nothing() -> None:
    assert levels(0.05, [0.02], [2])[0] == 0.0
    assert corrected_for_looks([1e-9, 0.0], [0.02], [2]).tolist() == [1.0, 1.0]


def test_one_look_at_all_seeds_changes_no_p_value() -> None:
    p = np.array([0.0, 1e-12, 0.03, 0.7, 1.0])
    np.testing.assert_array_equal(corrected_for_looks(p, [1.0], [5]), p)
    assert levels(0.05, [1.0], [5]) == pytest.approx([0.05])


@pytest.mark.parametrize("alpha", [ALPHA, ALPHA / 3, ALPHA / 7, ALPHA / 20])
@pytest.mark.parametrize("look", [1, 2, 3])
def test_a_corrected_p_value_is_the_smallest_level_of_all_looks_that_rejects(alpha: float, look: int) -> None:
    fractions, seeds = [3 / 8, 5 / 8, 1.0][:look], [3, 5, 8][:look]
    level = levels(alpha, fractions, seeds)[-1]
    assert corrected_for_looks([level], fractions, seeds)[0] == pytest.approx(alpha, rel=1e-3)


@settings(max_examples=40, deadline=None)
@given(p=st.lists(st.floats(0, 1), min_size=2, max_size=20), look=st.integers(1, 3), sides=st.integers(1, 2))
def test_a_correction_never_helps_and_keeps_the_order(p: list[float], look: int, sides: int) -> None:
    ordered = np.sort(p)
    corrected = corrected_for_looks(ordered, [3 / 8, 5 / 8, 1.0][:look], [3, 5, 8][:look], sides=sides)
    assert np.all(corrected >= ordered * (1 - 1e-3))
    assert np.all(np.diff(corrected) >= -1e-12)


def test_an_unknown_p_value_stays_unknown() -> None:
    assert np.isnan(corrected_for_looks([math.nan], [0.5], [3])).all()
    assert np.isnan(corrected_for_looks([math.nan], [1.0, 1.0], [3, 5])).all()


@pytest.mark.parametrize(("fractions", "seeds"), [([0.5], [3, 5]), ([0.5, 0.4], [3, 5]), ([0.5, 1.0], [5, 5])])
def test_looks_that_do_not_grow_are_rejected(fractions: list[float], seeds: list[int]) -> None:
    with pytest.raises(ValueError, match="expected growing seeds and fractions"):
        levels(0.05, fractions, seeds)


@pytest.mark.parametrize(("looks", "num_claims"), [((3, 5, 8), 1), ((3, 5, 8), 4), ((2, 3, 4, 5), 6), ((4, 8, 12, 16), 3)])
def test_the_familywise_error_of_t_tests_over_all_looks_is_at_most_5_percent(
    looks: tuple[int, ...], num_claims: int
) -> None:
    """Every null hypothesis is true, and a false verdict at any look is an error. Without spending it is above 8 %."""
    num_studies = 20_000
    effects = np.random.default_rng(looks[-1]).normal(size=(num_studies, num_claims, looks[-1]))
    is_wrong, is_wrong_unspent = np.zeros(num_studies, dtype=bool), np.zeros(num_studies, dtype=bool)
    for number, seeds in enumerate(looks, start=1):
        p = stats.ttest_1samp(effects[:, :, :seeds], 0, axis=2).pvalue
        corrected = corrected_for_looks(p, [one / looks[-1] for one in looks[:number]], looks[:number])
        is_wrong |= corrected.min(axis=1) < ALPHA / num_claims  # Holm's first step
        is_wrong_unspent |= p.min(axis=1) < ALPHA / num_claims
    assert is_wrong.sum() <= stats.binom.ppf(0.999, num_studies, ALPHA)
    assert is_wrong.mean() > 0.035, "the error is spent"
    assert is_wrong_unspent.mean() > 0.08
