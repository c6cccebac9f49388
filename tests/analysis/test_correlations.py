"""Correlation of proximity with improvement: what r leans on, studies in progress, degenerate tables without exceptions."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from builders.analysis_tables import bridging_tables
from builders.crossed_tables import planted
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from midstudy.analysis.correlations import correlate_pairs, correlations
from midstudy.analysis.crossed import Crossed, crossed, weighted_r
from midstudy.studies.bridging.proximity import proximity_pairs


def pairs_of(table: Crossed, replicates: Mapping[str, np.ndarray] | None = None) -> pd.DataFrame:
    """The rows of a table of mixes × tasks; a mix's dose is its number."""
    return pd.DataFrame(
        {
            "mix_label": mix,
            "task_label": task,
            "x": table.x[row, column],
            "y": table.y[row, column],
            "dose": float(row),
            **{f"improvement:{seed}": values[row, column] for seed, values in (replicates or {}).items()},
        }
        for row, mix in enumerate(table.mixes)
        for column, task in enumerate(table.tasks)
    )


@pytest.fixture
def table() -> Crossed:
    return planted(np.random.default_rng(8), 5, 4, r=0.7)


def r_of(x: np.ndarray, y: np.ndarray) -> float:
    return float(stats.pearsonr(x.ravel(), y.ravel()).statistic)


def test_r_and_rho_are_scipys(table: Crossed) -> None:
    found = correlate_pairs(pairs_of(table), x="x", y="y")
    assert found["r"] == pytest.approx(r_of(table.x, table.y))
    assert found["spearman_rho"] == pytest.approx(stats.spearmanr(table.x.ravel(), table.y.ravel()).statistic)
    assert (found["num_pairs"], found["num_mixes"], found["num_tasks"], found["num_relabellings"]) == (20, 5, 4, 2_880)
    assert found["ci_low"] < found["r"] < found["ci_high"]


@given(st.integers(0, 2**32 - 1))
def test_weights_are_repetitions(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, y, times = generator.normal(size=6), generator.normal(size=6), generator.integers(0, 3, size=6)
    if np.count_nonzero(times) > 1:
        assert weighted_r(x, y, times.astype(float)) == pytest.approx(
            np.corrcoef(np.repeat(x, times), np.repeat(y, times))[0, 1]
        )


def test_r_without_one_mix_task_or_pair_is_that_of_the_rest(table: Crossed) -> None:
    found = correlate_pairs(pairs_of(table), x="x", y="y")
    without = {
        "mix": {f"mix{i}": r_of(np.delete(table.x, i, 0), np.delete(table.y, i, 0)) for i in range(5)},
        "task": {f"task{i}": r_of(np.delete(table.x, i, 1), np.delete(table.y, i, 1)) for i in range(4)},
        "pair": {
            f"mix{i // 4} → task{i % 4}": r_of(np.delete(table.x.ravel(), i), np.delete(table.y.ravel(), i))
            for i in range(20)
        },
    }
    for kind, values in without.items():
        for end, extreme in (("low", min), ("high", max)):
            name = extreme(values, key=values.__getitem__)
            assert found[f"without_{kind}_{end}"] == pytest.approx(values[name])
            assert found[f"without_{kind}_{end}_name"] == name


def test_one_mix_that_makes_r_is_named() -> None:
    # Noise around zero but for one mix, which is close to everything and improves everything.
    generator = np.random.default_rng(0)
    x, y = (0.1 * generator.normal(size=(5, 4)) + np.array([[3.0], [0], [0], [0], [0]]) for _ in range(2))
    names = tuple(f"mix{index}" for index in range(5)), tuple(f"task{index}" for index in range(4))
    found = correlate_pairs(pairs_of(Crossed(*names, x, y)), x="x", y="y")
    assert found["r"] > 0.95
    assert found["without_mix_low_name"] == "mix0"
    assert found["without_mix_low"] < 0.5
    assert found["without_pair_low"] > 0.9, "single pairs do not show it"
    assert found["ci_low"] < 0.5, "nor does it escape resampling mixes"


def test_pairs_in_progress_are_left_out_and_counted(table: Crossed) -> None:
    table.y[4, :] = table.y[0, 0] = math.nan
    found = correlate_pairs(pairs_of(table), x="x", y="y")
    known = np.isfinite(table.y)
    assert found["r"] == pytest.approx(r_of(table.x[known], table.y[known]))
    assert (found["num_pairs"], found["num_mixes"], found["num_relabellings"]) == (15, 4, 24 * 24)
    assert "pairs: 5 of 20 are not finished" in found["reason"]


def test_seeds_make_the_noise_ceiling(table: Crossed) -> None:
    replicates = {str(seed): table.y + 0.3 * np.random.default_rng(seed).normal(size=(5, 4)) for seed in (0, 1)}
    found = correlate_pairs(pairs_of(table, replicates), x="x", y="y")
    first, second = replicates.values()
    expected = np.mean([stats.spearmanr(first[:, task], second[:, task]).statistic for task in range(4)])
    assert found["ceiling_rho"] == pytest.approx(expected)
    alone = correlate_pairs(pairs_of(table, {"0": table.y}), x="x", y="y")
    assert math.isnan(alone["ceiling_rho"])
    assert "agreement of seeds: no task has 3 mixes with two seeds" in alone["reason"]


def test_regret_is_in_points_of_percent(table: Crossed) -> None:
    found = correlate_pairs(pairs_of(table), x="x", y="y")
    lost = [table.y[:, task].max() - table.y[table.x[:, task].argmax(), task] for task in range(4)]
    assert found["regret_points"] == pytest.approx(100 * np.mean(lost))
    assert (found["num_named"], found["num_regret_tasks"]) == (sum(loss == 0 for loss in lost), 4)


@pytest.mark.parametrize(
    ("mixes", "tasks", "reason"),
    [
        (0, 0, "r: expected at least 4 pairs, got 0"),
        (3, 1, "r: expected at least 4 pairs, got 3"),
        (2, 3, "interval and p: expected at least 3 mixes, got 2"),
        (5, 1, "interval and p: expected at least 2 tasks, got 1"),
    ],
)
def test_what_cannot_be_computed_is_nan_with_a_reason(mixes: int, tasks: int, reason: str) -> None:
    empty = pd.DataFrame(columns=["mix_label", "task_label", "x", "y", "dose"])
    pairs = pairs_of(planted(np.random.default_rng(0), mixes, tasks, r=0.5)) if mixes else empty
    found = correlate_pairs(pairs, x="x", y="y")
    assert math.isnan(found["ci_low"])
    assert math.isnan(found["p_value"])
    assert reason in found["reason"]


@pytest.mark.parametrize(("column", "name"), [("x", "proximity advantage"), ("y", "relative improvement")])
def test_a_constant_has_no_correlation(table: Crossed, column: str, name: str) -> None:
    found = correlate_pairs(pairs_of(table).assign(**{column: 0.1}), x="x", y="y")
    assert math.isnan(found["r"])
    assert f"r: {name} does not vary" in found["reason"]


@given(st.lists(st.sampled_from([0.0, 0.1, 1.0, math.nan]), min_size=18, max_size=18))
def test_no_table_of_numbers_raises(values: list[float]) -> None:
    x, y = np.nan_to_num(np.reshape(values[:9], (3, 3))), np.reshape(values[9:], (3, 3))
    names = ("a", "b", "c"), ("d", "e", "f")
    found = correlate_pairs(pairs_of(Crossed(*names, x, y)), x="x", y="y")
    assert math.isnan(found["r"]) or -1 <= found["r"] <= 1
    assert math.isnan(found["p_value"]) or 0 < found["p_value"] <= 1


def test_a_mix_and_task_with_several_arms_is_refused(table: Crossed) -> None:
    pairs = pairs_of(table)
    with pytest.raises(ValueError, match="expected one arm, apart from seeds, of the mix mix0 and the task task0, got"):
        crossed(pd.concat([pairs, pairs]), x="x", y="y")


def test_correlations_run_per_size_over_the_main_arms() -> None:
    pairs = proximity_pairs(bridging_tables(sizes=("micro", "small")))
    assert pairs is not None
    found = correlations(pairs, measure="js", by="size")
    assert list(found.columns) == ["size", "measure", *correlate_pairs(pairs[:6], x="pa_js", y="relative_improvement")]
    assert found["size"].tolist() == ["micro", "small"]
    assert found["num_pairs"].tolist() == [6, 6]
    assert "control" not in set(pairs["mix"])
    expected = stats.pearsonr(pairs["pa_js"][:6], pairs["relative_improvement"][:6]).statistic
    assert found["r"].tolist() == pytest.approx([expected, expected])
    assert pairs.loc[pairs["matched"], "pair"].tolist()[:2] == ["code → pycode", "math → word_problems"]
    with pytest.raises(ValueError, match="got several"):
        correlations(pairs)


def test_an_unknown_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of combined, cosine, jaccard, js, got 'kl'"):
        correlations(pd.DataFrame(), measure="kl")
