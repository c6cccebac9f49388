"""From scores to expected improvements: a planted line is found, its interval covers, studies are left out whole."""

from __future__ import annotations

import math

import numpy as np
import pytest

from midstudy.analysis.calibration import COVERAGE, Pairs, calibrate, conformal_half_width, slope_of


def planted(slope: float, *, noise: float, num_studies: int, num_pairs: int = 10, seed: int = 0) -> dict[str, Pairs]:
    rng = np.random.default_rng(seed)
    found: dict[str, Pairs] = {}
    for number in range(num_studies):
        x = rng.uniform(0, 0.05, num_pairs)
        found[f"study{number}"] = (x, slope * x + noise * rng.standard_normal(num_pairs))
    return found


def test_a_planted_line_without_noise_is_found_and_has_no_error() -> None:
    found = calibrate(planted(1.5, noise=0.0, num_studies=3))
    assert found is not None
    assert found.slope == pytest.approx(1.5)
    assert found.half_width == pytest.approx(0.0, abs=1e-12)
    expected = found.expected(0.02)
    assert (expected.improvement, expected.low, expected.high) == pytest.approx((0.03, 0.03, 0.03))
    assert (found.num_studies, found.num_pairs) == (3, 30)


def test_fewer_than_three_studies_with_pairs_are_no_calibration() -> None:
    two = planted(1.5, noise=0.0, num_studies=2)
    assert calibrate(two) is None
    assert calibrate({**two, "empty": (np.array([]), np.array([]))}) is None
    assert calibrate({}) is None


def test_the_slope_is_that_of_least_squares_through_zero_with_equal_weight_for_each_study() -> None:
    small, large = (np.array([1.0]), np.array([1.0])), (np.full(99, 1.0), np.full(99, 3.0))
    assert slope_of([small, large]) == pytest.approx(2.0)  # not 2.98, the slope over pairs
    x, y = np.array([0.01, 0.02, -0.03]), np.array([0.02, 0.01, -0.05])
    assert slope_of([(x, y)]) == pytest.approx(np.linalg.lstsq(x[:, None], y, rcond=None)[0][0])
    assert slope_of([(np.zeros(3), y)]) == 0.0


def test_the_interval_is_as_wide_as_the_error_on_a_study_that_was_left_out() -> None:
    # Two studies with slope 1, one with slope 2: each is predicted by the mean slope of the others at scores of 1.
    one = (np.ones(3), np.ones(3))
    odd = (np.ones(3), np.full(3, 2.0))
    found = calibrate({"a": one, "b": one, "odd": odd})
    assert found is not None
    # residuals: a and b against slope 1.5 are 0.5, odd against slope 1 is 1.0; the ⌈10 · 0.8⌉ = 8th of nine is 1.0
    assert found.half_width == pytest.approx(1.0)
    in_sample = max(abs(y - found.slope * x).max() for x, y in (one, odd))
    assert in_sample < found.half_width


@pytest.mark.parametrize(("number", "rank"), [(4, 4), (9, 8), (99, 80)])
def test_the_half_width_is_the_split_conformal_quantile(number: int, rank: int) -> None:
    residuals = np.random.default_rng(1).permutation(np.arange(1.0, number + 1))
    assert conformal_half_width(residuals, coverage=0.8) == rank


def test_too_few_residuals_for_the_coverage_give_an_infinite_interval() -> None:
    assert math.isinf(conformal_half_width(np.array([1.0, 2.0, 3.0]), coverage=0.8))


def test_intervals_cover_new_exchangeable_pairs_as_often_as_they_say() -> None:
    covered = []
    for seed in range(300):
        found = calibrate(planted(1.5, noise=0.01, num_studies=4, seed=seed))
        assert found is not None
        (x, y), *_ = planted(1.5, noise=0.01, num_studies=1, num_pairs=20, seed=10_000 + seed).values()
        intervals = [found.expected(score) for score in x]
        covered += [one.low <= value <= one.high for one, value in zip(intervals, y, strict=True)]
    assert COVERAGE - 0.02 < np.mean(covered) < COVERAGE + 0.05


def test_a_score_outside_those_seen_is_an_extrapolation() -> None:
    found = calibrate({name: (np.array([0.01, 0.04]), np.array([0.02, 0.05])) for name in "abc"})
    assert found is not None
    assert [found.expected(score).is_extrapolation for score in (0.009, 0.01, 0.04, 0.041)] == [True, False, False, True]
