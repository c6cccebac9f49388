"""The interval over seeds and items against closed forms of its variance, and the mistakes that it rejects."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from midstudy.analysis.other_items import crossed_interval

RNG = np.random.default_rng(3)
TOKENS = np.tile(RNG.integers(5, 60, size=40), (5, 1))
CLUSTERS = np.repeat(np.arange(20), 2)


def test_the_value_is_the_mean_difference_per_target_token() -> None:
    differences, tokens = np.array([[10.0, 2.0], [6.0, 0.0]]), np.array([[40, 10], [40, 10]])
    found = crossed_interval(differences, tokens, ["a", "b"], random_seed=0)
    assert found.value == pytest.approx(18 / 100)
    assert (found.num_seeds, found.num_items, found.num_clusters) == (2, 2, 2)


def test_items_that_all_agree_leave_the_interval_of_the_t_test_over_seeds() -> None:
    effects = np.array([0.10, 0.14, 0.09, 0.12, 0.13])
    found = crossed_interval(effects[:, None] * TOKENS, TOKENS, CLUSTERS, random_seed=0, num_resamples=40_000)
    expected = stats.ttest_1samp(effects, 0).confidence_interval(0.95)
    assert found.items_error == pytest.approx(0, abs=1e-12)
    assert found.error == pytest.approx(stats.sem(effects), rel=0.02)
    assert (found.low, found.high) == (pytest.approx(expected.low, abs=1e-3), pytest.approx(expected.high, abs=1e-3))


def test_seeds_that_all_agree_leave_the_error_over_clusters() -> None:
    tokens = np.full((5, 40), 10)
    by_cluster = RNG.normal(0.1, 0.05, size=20)
    found = crossed_interval(np.repeat(by_cluster, 2) * tokens, tokens, CLUSTERS, random_seed=0, num_resamples=40_000)
    assert found.seeds_error == pytest.approx(0, abs=1e-12)
    assert found.error == pytest.approx(stats.sem(by_cluster), rel=0.02)
    expected = stats.t.interval(0.95, 19, loc=found.value, scale=found.error)
    assert (found.low, found.high) == (pytest.approx(expected[0]), pytest.approx(expected[1]))


def test_the_variance_of_crossed_seeds_and_items_is_owens() -> None:
    """Of the residual three times its variance of the mean, of seeds and items once each (Owen 2007, theorem 2)."""
    rng = np.random.default_rng(0)
    num_seeds, num_items = 30, 200
    residuals = rng.normal(size=(num_seeds, num_items))
    found = crossed_interval(residuals, np.ones_like(residuals), np.arange(num_items), random_seed=1, num_resamples=10_000)
    assert found.error == pytest.approx(math.sqrt(3 / (num_seeds * num_items)), rel=0.1)


def test_a_repeated_item_is_no_more_evidence_than_its_cluster() -> None:
    differences = RNG.normal(0.1, 0.1, size=(5, 20)) * 10
    once = crossed_interval(differences, np.full((5, 20), 10), np.arange(20), random_seed=4)
    copied = crossed_interval(
        np.repeat(differences, 3, axis=1), np.full((5, 60), 10), np.repeat(np.arange(20), 3), random_seed=4
    )
    assert (copied.low, copied.high) == (pytest.approx(once.low), pytest.approx(once.high))
    separate = crossed_interval(np.repeat(differences, 3, axis=1), np.full((5, 60), 10), np.arange(60), random_seed=4)
    assert separate.items_error < 0.7 * once.items_error


def test_the_same_seed_gives_the_same_interval() -> None:
    differences = RNG.normal(0.1, 0.1, size=(5, 40)) * TOKENS
    first, second, other = (crossed_interval(differences, TOKENS, CLUSTERS, random_seed=seed) for seed in (1, 1, 2))
    assert first == second
    assert first.low != other.low


@pytest.mark.parametrize("shape", [(1, 40), (5, 1)])
def test_one_seed_or_one_cluster_has_a_value_and_no_interval(shape: tuple[int, int]) -> None:
    clusters = np.zeros(shape[1]) if shape[1] == 1 else np.arange(shape[1])
    found = crossed_interval(np.full(shape, 2.0), np.full(shape, 10), clusters, random_seed=0)
    assert found.value == pytest.approx(0.2)
    assert math.isnan(found.low)
    assert math.isnan(found.error)


@pytest.mark.parametrize(
    ("differences", "tokens", "clusters", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 2)), np.arange(3), r"got \(2, 3\), \(2, 2\) and \(3,\)"),
        (np.ones((2, 3)), np.ones((2, 3)), np.arange(2), r"clusters of shape \(num_items,\)"),
        (np.ones(3), np.ones(3), np.arange(3), "expected differences and tokens of shape"),
        (np.full((2, 3), math.nan), np.ones((2, 3)), np.arange(3), "got NaN or infinity; leave out unfinished seeds"),
        (np.ones((2, 3)), np.zeros((2, 3)), np.arange(3), "at least one for each seed, got none"),
    ],
)
def test_what_is_not_a_full_table_is_rejected(
    differences: np.ndarray, tokens: np.ndarray, clusters: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        crossed_interval(differences, tokens, clusters, random_seed=0)
