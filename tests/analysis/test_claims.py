"""Claims of a study beside its numbers: what estimators find on known effects, and verdicts by interval and margin."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
from builders.analysis_tables import ADVANTAGES, KNOWN_EFFECTS, KNOWN_VARIANTS, bridging_tables, tables_of
from scipy import stats

from midstudy.analysis.claims import judge, verdict
from midstudy.analysis.estimators import ESTIMATORS, Estimate, find_estimator
from midstudy.analysis.tables import Tables
from midstudy.recipe.study import Claim

CODE, MATH = {"mix": "code", "task": "pycode"}, {"mix": "math", "task": "word_problems"}


def claim(estimator: str, *, comparison: str = "main", column: str = "sft_loss", **fields: Any) -> Claim:
    return Claim(
        **{"text": estimator, "source": "here", "estimator": estimator, "comparison": comparison, "column": column} | fields
    )


def judged(one: Claim, **study: Any) -> pd.Series:
    (row,) = (row for _, row in judge(bridging_tables(claims=[one], **study)).iterrows())
    return row


@pytest.mark.parametrize(
    ("holds", "margin", "low", "high", "expected"),
    [
        ("above", 0.0, 0.1, 0.2, "yes"),
        ("above", 0.0, -0.2, -0.1, "no"),
        ("above", 0.0, -0.1, 0.2, "inconclusive"),
        ("above", 0.0, math.nan, math.nan, "inconclusive"),
        ("above", 0.15, 0.1, 0.2, "inconclusive"),
        ("above", 0.3, 0.1, 0.2, "no"),
        ("below", 0.0, -0.2, -0.1, "yes"),
        ("below", 0.0, 0.1, 0.2, "no"),
        ("within", 0.3, -0.1, 0.2, "yes"),
        ("within", 0.1, 0.11, 0.2, "no"),
        ("within", 0.1, -0.2, -0.11, "no"),
        ("within", 0.1, -0.2, 0.2, "inconclusive"),
    ],
)
def test_a_verdict_is_decided_by_the_interval_and_the_margin(
    holds: str, margin: float, low: float, high: float, expected: str
) -> None:
    one = claim("paired_effect", holds=holds, margin=margin)
    assert verdict(one, Estimate(value=(low + high) / 2, low=low, high=high, unit="nats")) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(0.1, "yes"), (-0.1, "no"), (0.0, "inconclusive"), (math.nan, "inconclusive")]
)
def test_what_is_measured_exactly_is_decided_by_its_value(value: float, expected: str) -> None:
    assert verdict(claim("paired_effect"), Estimate(value=value, unit="similarity", is_exact=True)) == expected


def test_a_paired_effect_is_that_of_its_cell() -> None:
    row = judged(claim("paired_effect", arms=CODE, cited="2.264 → 2.091", family="task loss"))
    assert (row["verdict"], row["unit"], row["cited"], row["family"]) == (
        "yes",
        "relative improvement",
        "2.264 → 2.091",
        "task loss",
    )
    assert row["value"] == pytest.approx(0.5 / 4.8, abs=1e-3)
    assert row["ours"].startswith("+10.4 % (95 % interval +")
    assert row["ours"].endswith("3 seeds)")
    nats = judged(claim("paired_effect", arms=CODE, options={"scale": "difference"}))
    assert (nats["value"], nats["unit"]) == (pytest.approx(0.5), "nats")


def test_an_opposite_effect_is_a_no() -> None:
    worse = {"sft_loss": {("code", "pycode"): 1.2}}
    assert judged(claim("paired_effect", arms=CODE), **worse)["verdict"] == "no"
    best = judged(claim("best_of", arms=CODE), **worse)
    assert best["verdict"] == "no"
    assert best["ours"].endswith("not significantly better than: control, math, instruction")


@pytest.mark.parametrize(("better", "gain"), [("higher", 0.1), ("lower", -0.1)])
def test_a_planted_effect_holds_whichever_way_the_column_is_better(better: str, gain: float) -> None:
    rows = [
        {"recipe": recipe, "seed": seed, "score": 0.5 + 0.02 * seed + (gain + 0.001 * seed if recipe == "new" else 0)}
        for recipe in ("base", "new")
        for seed in (0, 1, 2)
    ]
    comparison = {"name": "new", "arms": {"recipe": "new"}, "references": {"recipe": "base"}, "columns": ("score",)}
    claims = [claim(name, comparison="new", column="score") for name in ("paired_effect", "best_of")]
    found = judge(tables_of(rows, [comparison], columns={"score": better}, seeds=("seed",), claims=claims))
    assert found["verdict"].tolist() == ["yes", "yes"]
    assert found["unit"][1] == ("accuracy" if better == "higher" else "nats")


def test_best_of_is_decided_by_the_nearest_rival() -> None:
    row = judged(claim("best_of", arms=MATH))
    assert (row["verdict"], row["unit"]) == ("yes", "nats")
    assert row["value"] == pytest.approx(
        sum(KNOWN_EFFECTS[MATH["mix"], "word_problems"]) / 3 - sum(KNOWN_EFFECTS["code", "word_problems"]) / 3
    )
    assert row["ours"].startswith("next is code, +0.190 nats")


def test_best_of_waits_for_every_rival() -> None:
    row = judged(claim("best_of", arms=CODE), unfinished=[{"mix": "instruction"}])
    assert row["verdict"] == "inconclusive"
    assert row["ours"].endswith("not significantly better than: instruction")


def test_a_claim_on_one_arm_must_select_one() -> None:
    row = judged(claim("paired_effect", arms={"mix": "code"}))
    assert row["verdict"] == "inconclusive"
    assert "expected one cell with {'mix': 'code'}, got 2: size micro, mix code, weight 0.2" in row["ours"]
    with pytest.raises(ValueError, match="got none; its cells are size micro, mix code"):
        ESTIMATORS["best_of"](bridging_tables(), claim("best_of", arms={"mix": "qa"}))


WITHIN: dict[str, Any] = {"holds": "within", "margin": 0.02, "arms": {"mix": ("math", "instruction"), "task": "pycode"}}


def test_all_within_holds_where_every_interval_lies_inside() -> None:
    row = judged(claim("all_within", **WITHIN))
    assert row["verdict"] == "yes"
    assert row["ours"].startswith("math, which decides among 2: ")


def test_all_within_fails_where_one_lies_outside() -> None:
    row = judged(claim("all_within", **WITHIN), sft_loss={("instruction", "pycode"): -0.4})
    assert row["verdict"] == "no"
    assert row["ours"].startswith("instruction, which decides among 2: +8.")


def test_all_within_is_undecided_where_one_is_unfinished() -> None:
    assert judged(claim("all_within", **WITHIN), unfinished=[{"mix": "math"}])["verdict"] == "inconclusive"


def test_a_correlation_has_fishers_interval() -> None:
    row = judged(claim("correlation"))
    gains = [
        sum(gain / (base + offset) for gain, offset in zip(KNOWN_EFFECTS[pair], (0.002, 0.032, -0.018), strict=True)) / 3
        for pair in ADVANTAGES
        for base in [4.8 if pair[1] == "pycode" else 4.0]
    ]
    r = stats.pearsonr(list(ADVANTAGES.values()), gains)
    interval = r.confidence_interval(0.95)
    assert row["value"] == pytest.approx(r.statistic)
    assert (row["low"], row["high"]) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert row["verdict"] == "yes"


def test_a_correlation_of_few_pairs_is_not_defined() -> None:
    row = judged(claim("correlation", arms={"task": "pycode"}))
    assert row["verdict"] == "inconclusive"
    assert "expected at least 4 pairs, got 3" in row["ours"]


def test_a_trend_is_the_slope_over_seeds() -> None:
    one = claim("trend", comparison="timing", holds="below", options={"scale": "difference"})
    row = judged(one)
    steps = (10, 50, 80)
    points = zip(KNOWN_VARIANTS[0.2, 10], KNOWN_EFFECTS["code", "pycode"], KNOWN_VARIANTS[0.2, 80], strict=True)
    slopes = [stats.linregress(steps, gains).slope for gains in points]
    assert row["value"] == pytest.approx(sum(slopes) / 3)
    assert row["low"] == pytest.approx(stats.ttest_1samp(slopes, 0).confidence_interval().low)
    assert (row["verdict"], row["unit"]) == ("yes", "nats per start_step")


def test_a_trend_needs_a_comparison_along_a_factor() -> None:
    assert "expected a comparison with `along`, got 'main'" in judged(claim("trend"))["ours"]


def test_an_interaction_is_the_difference_of_two_effects_over_seeds() -> None:
    options = {"factor": "start_step", "level": 10, "other": 80, "scale": "difference"}
    row = judged(claim("interaction", comparison="timing", arms=CODE, options=options))
    differences = [early - late for early, late in zip(KNOWN_VARIANTS[0.2, 10], KNOWN_VARIANTS[0.2, 80], strict=True)]
    assert row["value"] == pytest.approx(sum(differences) / 3)
    assert row["p_value"] == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    assert row["verdict"] == "yes"


SEVERAL = [
    claim("paired_effect", arms=CODE),
    claim("best_of", arms=CODE),
    claim("all_within", **WITHIN),
    claim("trend", comparison="timing", holds="below"),
    claim("interaction", comparison="timing", arms=CODE, options={"factor": "start_step", "level": 10, "other": 80}),
]


def test_one_seed_decides_nothing() -> None:
    found = judge(bridging_tables(trunk_seeds=(0,), claims=SEVERAL))
    assert set(found["verdict"]) == {"inconclusive"}
    assert found["value"].notna().all()
    assert found["low"].isna().all()


def test_nothing_finished_keeps_every_row() -> None:
    found = judge(bridging_tables(unfinished=[{"size": "micro"}], claims=[*SEVERAL, claim("correlation")]))
    assert found["ours"].tolist() == ["not measured"] * 6
    assert set(found["verdict"]) == {"inconclusive"}
    assert judge(bridging_tables()).empty


def test_p_values_are_corrected_within_a_family() -> None:
    claims = [
        claim("paired_effect", arms=CODE, family="task"),
        claim("paired_effect", arms=MATH, family="task"),
        claim("paired_effect", arms=CODE, column="general_loss", family="general"),
    ]
    found = judge(bridging_tables(claims=claims))
    smaller = found["p_value"][:2].min()
    assert found["p_holm"][:2].min() == pytest.approx(2 * smaller)
    assert found["p_holm"][2] == pytest.approx(found["p_value"][2])


def exact_gain(tables: Tables, one: Claim) -> Estimate:
    """An estimator of a study's own."""
    return Estimate(value=float(len(tables.arms)), unit="arms", text="counted", is_exact=True)


def test_a_study_may_bring_an_estimator_of_its_own() -> None:
    row = judged(claim(f"{__name__}:exact_gain"))
    assert (row["verdict"], row["ours"], row["unit"]) == ("yes", "counted", "arms")


@pytest.mark.parametrize("name", ["unknown", "no_such_module:function", "midstudy.analysis.claims:unknown", ":x"])
def test_an_unknown_estimator_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected one of paired_effect, best_of, .* or package\.module:function, got"):
        find_estimator(name)
