"""Ranks within tasks, their permutation tests and noise ceiling, and what taking the predictor's top mix costs."""

from __future__ import annotations

import itertools
import math
from statistics import fmean

import numpy as np
import pytest
from builders.crossed_tables import crossed_noise, crossed_of, planted
from scipy import stats

from midstudy.analysis.within_task import rank_within_tasks, regret_at_1, replicate_agreement


def rho(x: np.ndarray, y: np.ndarray) -> float:
    return float(stats.spearmanr(x, y).statistic)


def test_the_mean_rank_and_its_p_values_equal_a_full_enumeration() -> None:
    table = planted(np.random.default_rng(4), 3, 3, r=0.7)
    x, y, orders = table.x, table.y, [list(order) for order in itertools.permutations(range(3))]
    observed = np.mean([rho(x[:, task], y[:, task]) for task in range(3)])
    within = [
        np.mean([rho(x[order, task], y[:, task]) for task, order in enumerate(each)])
        for each in itertools.product(orders, repeat=3)
    ]
    alike = [np.mean([rho(x[order, task], y[:, task]) for task in range(3)]) for order in orders]
    found = rank_within_tasks(table)
    assert found.mean_rho == pytest.approx(observed)
    assert found.p_within_tasks == pytest.approx(np.mean(np.abs(within) >= abs(observed) - 1e-9))
    assert found.p_labels == pytest.approx(np.mean(np.abs(alike) >= abs(observed) - 1e-9))
    assert (found.num_tasks, found.reason) == (3, "")


def test_more_orders_than_the_limit_are_drawn() -> None:
    x = crossed_noise(np.random.default_rng(0), 5, 4, mix_sd=0, task_sd=1)
    found = rank_within_tasks(crossed_of(x, x.copy()))
    assert found.mean_rho == pytest.approx(1)
    assert found.p_within_tasks == pytest.approx(1e-4), "of 120⁴ orders 10,000 are drawn, the identity among them"
    assert found.p_labels == pytest.approx(1 / 120)


def test_a_task_whose_mixes_are_not_finished_is_ranked_by_the_others() -> None:
    table = planted(np.random.default_rng(1), 5, 3, r=0.5)
    table.y[0, 0] = table.y[:3, 1] = math.nan
    expected = np.mean([rho(table.x[1:, 0], table.y[1:, 0]), rho(table.x[:, 2], table.y[:, 2])])
    found = rank_within_tasks(table)
    assert found.mean_rho == pytest.approx(expected)
    assert found.num_tasks == 2, "two mixes have no rank worth the name"
    nothing = rank_within_tasks(planted(np.random.default_rng(1), 2, 3, r=0.5))
    assert math.isnan(nothing.mean_rho)
    assert nothing.reason == "no task has 3 mixes that differ"


def test_mixes_that_are_good_everywhere_need_labels_permuted_alike() -> None:
    # Unrelated tables in which mixes differ. Band fixed before looking: 99.9 % of the binomial.
    generator = np.random.default_rng(11)
    within, alike = [], []
    for _ in range(300):
        x, y = (crossed_noise(generator, 5, 3, mix_sd=2, task_sd=1) for _ in range(2))
        found = rank_within_tasks(crossed_of(x, y))
        within.append(found.p_within_tasks)
        alike.append(found.p_labels)
    most = stats.binom.ppf(0.9995, 300, 0.05)
    assert np.sum(np.array(alike) <= 0.05) <= most
    assert np.sum(np.array(within) <= 0.05) > most


def test_the_noise_ceiling_is_the_agreement_of_replicates_within_tasks() -> None:
    generator = np.random.default_rng(2)
    first, second, third = (crossed_noise(generator, 5, 2, mix_sd=1, task_sd=1) for _ in range(3))
    third[:, 1] = math.nan
    by_task: list[float] = [
        fmean(rho(one[:, 0], other[:, 0]) for one, other in itertools.combinations((first, second, third), 2)),
        rho(first[:, 1], second[:, 1]),
    ]
    found = replicate_agreement([first, second, third])
    assert found.mean_rho == pytest.approx(np.mean(by_task))
    assert found.num_tasks == 2


def test_one_seed_has_no_noise_ceiling() -> None:
    for replicates in ([], [np.ones((5, 2))], [np.ones((2, 2)), np.ones((2, 2))]):
        found = replicate_agreement(replicates)
        assert math.isnan(found.mean_rho)
        assert found.reason == "no task has 3 mixes with two seeds"


def test_regret_is_what_the_top_mix_of_the_predictor_loses() -> None:
    x = np.array([[0.9, 0.1, 0.5], [0.1, 0.9, 0.5], [0.2, 0.2, 0.1]])
    y = np.array([[5.0, 4.0, 2.0], [1.0, 1.0, 4.0], [2.0, 2.0, 9.0]])
    found = regret_at_1(crossed_of(x, y))
    # The first task's best is named; the second loses 4 − 1; in the third two tie, (9 − 2 + 9 − 4) / 2.
    assert found.mean == pytest.approx((0 + 3 + 6) / 3)
    assert (found.num_named, found.num_tasks) == (1, 3)


def test_regret_needs_a_choice() -> None:
    table = planted(np.random.default_rng(0), 3, 2, r=0.5)
    table.y[1:, 0] = math.nan
    assert regret_at_1(table).num_tasks == 1
    table.y[:] = math.nan
    assert math.isnan(regret_at_1(table).mean)
