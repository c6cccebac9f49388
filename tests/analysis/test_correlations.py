"""Correlation of proximity with improvement: scipy's values, what r leans on, degenerate tables without exceptions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from builders.analysis_tables import bridging_tables, proximity_table
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from midstudy.analysis.correlations import CORRELATION_COLUMNS, correlate_pairs, correlations
from midstudy.studies.bridging.proximity import proximity_pairs


def pairs_of(x: list[float], y: list[float], matched: list[bool] | None = None) -> pd.DataFrame:
    names = [f"mix{index} → task" for index in range(len(x))]
    return pd.DataFrame({"pair": names, "matched": matched or [False] * len(x), "x": x, "y": y})


X = [0.16, 0.05, 0.01, 0.00, -0.01, 0.02, 0.03, -0.02]
Y = [0.12, 0.06, 0.00, 0.01, 0.005, -0.01, 0.02, 0.015]
MATCHED = [True, True, False, False, False, False, False, False]


def test_pearson_and_spearman_are_scipys() -> None:
    found = correlate_pairs(pairs_of(X, Y, MATCHED), x="x", y="y")
    pearson, spearman = stats.pearsonr(X, Y), stats.spearmanr(X, Y)
    assert (found["r"], found["p_value"]) == (pytest.approx(pearson.statistic), pytest.approx(pearson.pvalue))
    interval = pearson.confidence_interval(0.95)
    assert (found["ci_low"], found["ci_high"]) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert found["spearman_rho"] == pytest.approx(spearman.statistic)
    assert found["spearman_p"] == pytest.approx(spearman.pvalue)
    assert (found["n_pairs"], found["reason"]) == (8, "")


def test_what_r_leans_on_is_shown() -> None:
    found = correlate_pairs(pairs_of(X, Y, MATCHED), x="x", y="y")
    left_out = [stats.pearsonr(np.delete(X, i), np.delete(Y, i)).statistic for i in range(len(X))]
    assert found["leave_one_out_low"] == pytest.approx(min(left_out))
    assert found["leave_one_out_low_without"] == f"mix{int(np.argmin(left_out))} → task"
    assert found["leave_one_out_high"] == pytest.approx(max(left_out))
    assert found["leave_one_out_high_without"] == f"mix{int(np.argmax(left_out))} → task"
    assert found["best_pair"] == "mix0 → task"
    assert found["r_without_best_pair"] == pytest.approx(left_out[0])
    assert found["r_unmatched"] == pytest.approx(stats.pearsonr(X[2:], Y[2:]).statistic)
    assert found["n_unmatched"] == 6


def test_two_matched_pairs_can_carry_all_of_r() -> None:
    # Unmatched pairs are noise around zero; the matched ones sit far off along the diagonal.
    found = correlate_pairs(
        pairs_of([1.0, 0.9, 0, 0.1, 0, 0.1], [1.0, 0.9, 0.1, 0, 0, 0.05], [True] * 2 + [False] * 4), x="x", y="y"
    )
    assert found["r"] > 0.95
    assert found["r_unmatched"] < 0


def test_the_bootstrap_is_reproducible_and_covers_r() -> None:
    first, second = (correlate_pairs(pairs_of(X, Y, MATCHED), x="x", y="y") for _ in range(2))
    assert (first["bootstrap_low"], first["bootstrap_high"]) == (second["bootstrap_low"], second["bootstrap_high"])
    assert -1 <= first["bootstrap_low"] < first["r"] < first["bootstrap_high"] <= 1


def test_the_bootstrap_agrees_with_scipys_percentile_bootstrap() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=30)
    y = 0.6 * x + generator.normal(size=30)
    found = correlate_pairs(pairs_of(x.tolist(), y.tolist()), x="x", y="y")
    expected = stats.bootstrap(
        (x, y),
        lambda a, b: stats.pearsonr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=3_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found["bootstrap_low"] == pytest.approx(expected.low, abs=0.05)
    assert found["bootstrap_high"] == pytest.approx(expected.high, abs=0.05)


def test_an_exact_line_has_r_one_without_warnings() -> None:
    found = correlate_pairs(pairs_of([1, 2, 3, 4, 5], [2, 4, 6, 8, 10]), x="x", y="y")
    assert found["r"] == pytest.approx(1)
    assert found["ci_low"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([], [], "r: expected at least 4 pairs, got 0"),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 4.0], "r: expected at least 4 pairs, got 3"),
        ([1.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0], "r: proximity advantage does not vary"),
        ([1.0, 2.0, 3.0, 4.0, 5.0], [0.1] * 5, "r: relative improvement does not vary"),
    ],
)
def test_what_cannot_be_computed_is_nan_with_a_reason(x: list[float], y: list[float], reason: str) -> None:
    found = correlate_pairs(pairs_of(x, y), x="x", y="y")
    assert math.isnan(found["r"])
    assert math.isnan(found["bootstrap_low"])
    assert reason in str(found["reason"])


def test_four_pairs_have_r_but_no_leave_one_out() -> None:
    found = correlate_pairs(pairs_of([1, 2, 3, 4], [1, 3, 2, 4]), x="x", y="y")
    assert found["r"] == pytest.approx(0.8)
    assert math.isnan(found["leave_one_out_low"])
    assert "leave one out: no subset" in str(found["reason"])


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 1.0]), st.sampled_from([0.0, 0.1, 1.0])), max_size=8))
def test_no_table_of_numbers_raises(values: list[tuple[float, float]]) -> None:
    x, y = ([value[axis] for value in values] for axis in (0, 1))
    found = correlate_pairs(pairs_of(x, y), x="x", y="y")
    assert math.isnan(found["r"]) or -1 <= found["r"] <= 1


def test_correlations_run_per_size_over_the_main_arms() -> None:
    pairs = proximity_pairs(bridging_tables(sizes=("micro", "small")))
    assert pairs is not None
    found = correlations(pairs, measure="js", by="size")
    assert list(found.columns) == ["size", *CORRELATION_COLUMNS]
    assert found["size"].tolist() == ["micro", "small"]
    assert found["n_pairs"].tolist() == [6, 6]
    assert "control" not in set(pairs["mix"])
    expected = stats.pearsonr(pairs["pa_js"][:6], pairs["relative_improvement"][:6]).statistic
    assert found["r"].tolist() == pytest.approx([expected, expected])
    assert pairs.loc[pairs["matched"], "pair"].tolist()[:2] == ["code → pycode", "math → word_problems"]
    assert correlations(pairs)["n_pairs"].tolist() == [12]


def test_pairs_wait_for_the_counts() -> None:
    assert proximity_pairs(replace(bridging_tables(), proximity=None)) is None


def test_a_missing_proximity_advantage_is_an_error_that_names_the_pair() -> None:
    tables, known = bridging_tables(), proximity_table()
    without = known[~((known["mix"] == "math") & (known["task"] == "pycode"))]
    with pytest.raises(ValueError, match=r"mix math, weight 0\.2, task pycode: expected one mix .*, got 0"):
        proximity_pairs(replace(tables, proximity=without))
    with pytest.raises(ValueError, match=r"mix code, weight 0\.2"):
        proximity_pairs(replace(tables, proximity=known.assign(weight=0.25)))


def test_an_unknown_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of combined, cosine, jaccard, js, got 'kl'"):
        correlations(pd.DataFrame(), measure="kl")
