"""QAP: p values equal a full enumeration of the labels, and are uniform where pairs share effects of mixes and tasks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from builders.crossed_tables import crossed_noise, crossed_of, planted
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from midstudy.analysis import qap as module
from midstudy.analysis.crossed import Crossed
from midstudy.analysis.qap import partial_qap, qap

NUM_TABLES = 500


def a_table(seed: int = 0, mixes: int = 4, tasks: int = 3, r: float = 0.5) -> Crossed:
    return planted(np.random.default_rng(seed), mixes, tasks, r=r)


def enumerated(table: Crossed, statistic: Callable[..., float]) -> list[float]:
    """The statistic under every relabelling of the predictor, the identity first, one at a time."""
    known = np.isfinite(table.y)
    mixes, tasks = table.x.shape
    return [
        statistic(table.x[np.ix_(rows, columns)][known], table.y[known])
        for rows in itertools.permutations(range(mixes))
        for columns in itertools.permutations(range(tasks))
    ]


def shares(values: list[float]) -> tuple[float, float, float]:
    observed, found = values[0], np.array(values)
    p_values = (found >= observed - 1e-9, found <= observed + 1e-9, np.abs(found) >= abs(observed) - 1e-9)
    greater, less, two_sided = (float(np.mean(extreme)) for extreme in p_values)
    return greater, less, two_sided


@pytest.mark.parametrize("missing", [[], [(1, 2)], [(0, 0), (3, 1)]], ids=str)
@pytest.mark.parametrize("by_rank", [False, True])
def test_exact_p_values_equal_a_full_enumeration(missing: list[tuple[int, int]], by_rank: bool) -> None:
    table = a_table()
    for pair in missing:
        table.y[pair] = math.nan
    by_scipy = stats.spearmanr if by_rank else stats.pearsonr
    found = qap(table, by_rank=by_rank)
    values = enumerated(table, lambda x, y: float(by_scipy(x, y).statistic))
    assert found.statistic == pytest.approx(values[0])
    assert (found.p_greater, found.p_less, found.p_two_sided) == pytest.approx(shares(values))
    assert found.p_directed == pytest.approx(min(1.0, 2 * found.p_greater, 2 * found.p_less)), "as verdicts double it"
    assert found.num_relabellings == 24 * 6


@pytest.mark.parametrize("by_rank", [False, True])
def test_a_predictor_that_is_the_outcome_has_the_smallest_p_value(by_rank: bool) -> None:
    x = a_table().x
    assert qap(crossed_of(x, x.copy()), by_rank=by_rank).p_greater == pytest.approx(1 / 144)


@given(st.integers(0, 2**32 - 1), st.permutations(range(4)), st.permutations(range(3)))
def test_the_order_of_the_tables_and_their_units_do_not_matter(seed: int, mixes: list[int], tasks: list[int]) -> None:
    table = a_table(seed)
    order = np.ix_(mixes, tasks)
    found, other = qap(table), qap(crossed_of(3 * table.x[order] + 7, 100 * table.y[order]))
    assert other.p_two_sided == pytest.approx(found.p_two_sided)
    mirrored = qap(crossed_of(table.x, -table.y))
    assert (mirrored.p_greater, mirrored.p_less) == pytest.approx((found.p_less, found.p_greater))


def test_more_relabellings_than_the_limit_are_drawn_the_identity_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    table = a_table(mixes=6, tasks=5, r=0.3)
    assert math.factorial(6) * math.factorial(5) > module.MAX_EXACT
    found = qap(table)
    assert (found.num_relabellings, found.p_two_sided) == (10_000, qap(table).p_two_sided)
    monkeypatch.setattr(module, "MAX_EXACT", 100_000)
    exact = qap(table)
    assert exact.num_relabellings == 86_400
    error = math.sqrt(exact.p_two_sided * (1 - exact.p_two_sided) / found.num_relabellings)
    assert abs(found.p_two_sided - exact.p_two_sided) < 4 * error
    monkeypatch.undo()
    assert qap(crossed_of(table.x, table.x)).p_greater >= 1e-4, "the identity is as extreme as itself"


@pytest.mark.parametrize("num_missing", [0, 3])
def test_p_values_of_unrelated_tables_with_crossed_effects_are_uniform(num_missing: int) -> None:
    # Bands fixed before looking: 99.8 % of the binomial, and the 0.1 % level of Kolmogorov and Smirnov.
    generator = np.random.default_rng(20_240_607)
    exact, of_pairs = [], []
    for _ in range(NUM_TABLES):
        x, y = (crossed_noise(generator, 5, 3, mix_sd=1.5, task_sd=1.0) for _ in range(2))
        y.ravel()[generator.choice(15, num_missing, replace=False)] = math.nan
        table = crossed_of(x, y)
        exact.append(qap(table).p_two_sided)
        of_pairs.append(stats.pearsonr(x[table.is_pair], y[table.is_pair]).pvalue)
    low, high = stats.binom.ppf([0.001, 0.999], NUM_TABLES, 0.05)
    assert low <= np.sum(np.array(exact) <= 0.05) <= high
    assert stats.kstest(exact, "uniform").pvalue > 0.001
    assert np.sum(np.array(of_pairs) <= 0.05) > high, "the p value of independent pairs is outside, so this test can fail"


def test_undefined_relabellings_count_as_extreme() -> None:
    # The predictor is known for four pairs only; most relabellings leave fewer than two of them.
    x, y = np.full((4, 4), math.nan), np.full((4, 4), math.nan)
    for index, value in enumerate((0.0, 1.0, 3.0, 7.0)):
        x[index, index], y[index, index] = value, value
    found = qap(crossed_of(x, y))
    assert found.statistic == pytest.approx(1)
    assert found.p_greater > 0.3


def test_too_few_mixes_or_tasks_have_r_and_no_p_value() -> None:
    for mixes, tasks, reason in ((2, 4, "at least 3 mixes, got 2"), (5, 1, "at least 2 tasks, got 1")):
        table = a_table(mixes=mixes, tasks=tasks)
        found = qap(table)
        assert found.statistic == pytest.approx(stats.pearsonr(table.x.ravel(), table.y.ravel()).statistic)
        assert math.isnan(found.p_two_sided)
        assert reason in found.reason


def test_a_partial_correlation_is_that_of_the_residuals() -> None:
    table, dose = a_table(), np.array([0.1, 0.3, 0.2, 0.9])
    z = np.repeat(dose, 3)
    residuals = [values - np.polyval(np.polyfit(z, values, 1), z) for values in (table.x.ravel(), table.y.ravel())]
    assert partial_qap(table, dose).statistic == pytest.approx(stats.pearsonr(*residuals).statistic)


def test_a_dose_that_moves_both_tables_is_taken_out() -> None:
    # Band fixed before looking: residuals of eight mixes are not quite exchangeable, so up to 8 % at the nominal 5 %.
    generator = np.random.default_rng(7)
    given_dose, without = [], []
    for _ in range(200):
        dose = generator.normal(size=8)
        x, y = (2 * dose[:, None] + crossed_noise(generator, 8, 3, mix_sd=0.7, task_sd=0.7) for _ in range(2))
        table = crossed_of(x, y)
        given_dose.append(partial_qap(table, dose).p_two_sided)
        without.append(qap(table).p_two_sided)
    assert np.mean(np.array(given_dose) <= 0.05) <= 0.08
    assert np.mean(np.array(without) <= 0.05) > 0.5


@pytest.mark.parametrize(
    ("dose", "reason"),
    [
        ([math.nan] * 4, "expected at least 5 pairs with a dose, got 0"),
        ([0.1] * 4, "dose does not vary"),
    ],
)
def test_a_partial_correlation_that_is_not_defined_has_a_reason(dose: list[float], reason: str) -> None:
    found = partial_qap(a_table(), np.array(dose))
    assert math.isnan(found.statistic)
    assert found.reason == reason


def test_a_predictor_that_follows_from_the_dose_has_no_partial_correlation() -> None:
    table, dose = a_table(), np.array([0.1, 0.3, 0.2, 0.9])
    found = partial_qap(crossed_of(np.repeat(2 * dose[:, None], 3, axis=1), table.y), dose)
    assert found.reason == "dose determines proximity advantage"
