"""The pigeonhole bootstrap resamples mixes and tasks, not pairs, and says what it could not resample."""

from __future__ import annotations

import math

import numpy as np
import pytest
from builders.crossed_tables import crossed_of, planted
from scipy import stats

from midstudy.analysis.pigeonhole import NUM_RESAMPLES, pigeonhole


def test_it_agrees_with_resampling_whole_mixes_and_tasks_one_at_a_time() -> None:
    table = planted(np.random.default_rng(3), 6, 5, r=0.5)
    generator = np.random.default_rng(1)
    drawn = []
    for _ in range(4_000):
        rows, columns = generator.integers(0, 6, 6), generator.integers(0, 5, 5)
        drawn.append(np.corrcoef(table.x[np.ix_(rows, columns)].ravel(), table.y[np.ix_(rows, columns)].ravel())[0, 1])
    assert pigeonhole(table).interval() == pytest.approx(np.nanquantile(drawn, [0.025, 0.975]), abs=0.03)


def test_it_is_wider_than_a_bootstrap_of_pairs_that_share_effects() -> None:
    # Mixes differ in both quantities and pairs hardly do: five mixes are five observations, not twenty.
    generator = np.random.default_rng(0)
    x, y = (generator.normal(size=(5, 1)) + 0.01 * generator.normal(size=(5, 4)) for _ in range(2))
    low, high = pigeonhole(crossed_of(x, y)).interval()
    of_pairs = stats.bootstrap(
        (x.ravel(), y.ravel()),
        lambda a, b: stats.pearsonr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=500,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert high - low > 1.5 * (of_pairs.high - of_pairs.low)


def test_resamples_without_variation_are_dropped_and_counted() -> None:
    # Of three mixes and two tasks a resample is one pair with probability 3/27 · 1/2.
    found = pigeonhole(planted(np.random.default_rng(0), 3, 2, r=0.5))
    low, high = stats.binom.ppf([1e-4, 1 - 1e-4], NUM_RESAMPLES, 1 / 18)
    assert low <= found.num_degenerate <= high
    assert found.r.size + found.num_degenerate == NUM_RESAMPLES
    assert not np.isnan(found.r).any()


def test_missing_pairs_stay_missing() -> None:
    table = planted(np.random.default_rng(0), 5, 4, r=0.9)
    table.y[2, 3] = math.nan
    changed = planted(np.random.default_rng(0), 5, 4, r=0.9)
    changed.x[2, 3] = 1e6
    changed.y[2, 3] = math.nan
    assert pigeonhole(changed).interval() == pigeonhole(table).interval()


def test_one_sided_p_values_are_shares_of_the_resamples() -> None:
    found = pigeonhole(planted(np.random.default_rng(5), 8, 6, r=0.8))
    low, high = found.interval()
    assert found.p_above(low) == pytest.approx(0.025, abs=1e-3)
    assert found.p_below(high) == pytest.approx(0.025, abs=1e-3)
    assert found.p_above(-1.0) == pytest.approx(1 / (1 + found.r.size)), "no p value is zero"
    assert found.p_above(0.3) < found.p_above(0.6)


@pytest.mark.parametrize(
    ("mixes", "tasks", "reason"),
    [
        (2, 4, "expected at least 3 mixes, got 2"),
        (5, 1, "expected at least 2 tasks, got 1"),
        (3, 1, "expected at least 4 pairs"),
    ],
)
def test_too_few_mixes_or_tasks_have_no_interval(mixes: int, tasks: int, reason: str) -> None:
    found = pigeonhole(planted(np.random.default_rng(0), mixes, tasks, r=0.5))
    assert all(math.isnan(end) for end in found.interval())
    assert math.isnan(found.p_above(0.0))
    assert reason in found.reason
