"""Claims of a study beside its numbers: what estimators find on known effects, and verdicts by interval and margin."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders.analysis_tables import KNOWN_EFFECTS, KNOWN_VARIANTS, bridging_tables, tables_of
from builders.crossed_tables import planted, study_of
from scipy import stats

from midstudy.analysis.claims import judge, verdict
from midstudy.analysis.estimators import ESTIMATORS, Estimate, find_estimator
from midstudy.analysis.pigeonhole import pigeonhole
from midstudy.analysis.qap import qap
from midstudy.analysis.reach import scope
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
    ("p_holds", "p_fails", "p_holm", "expected"),
    [
        (0.001, 0.999, 0.04, "yes"),
        (0.999, 0.001, 0.04, "no"),
        (0.001, 0.999, 0.05, "inconclusive"),
        (0.001, 0.999, 0.06, "inconclusive"),
        (math.nan, 0.001, 0.01, "no"),
        (math.nan, math.nan, math.nan, "inconclusive"),
    ],
)
def test_a_verdict_is_the_direction_of_the_smaller_p_if_the_corrected_p_is_below_5_percent(
    p_holds: float, p_fails: float, p_holm: float, expected: str
) -> None:
    estimate = Estimate(value=0.1, low=0.05, high=0.15, unit="nats", p_holds=p_holds, p_fails=p_fails)
    assert verdict(claim("paired_effect"), estimate, p_holm=p_holm) == expected


@pytest.mark.parametrize(
    ("holds", "value", "expected"),
    [
        ("above", 0.1, "yes"),
        ("above", -0.1, "no"),
        ("above", 0.0, "inconclusive"),
        ("above", math.nan, "inconclusive"),
        ("below", -0.1, "yes"),
        ("within", 0.1, "no"),
    ],
)
def test_what_is_measured_exactly_is_decided_by_its_value(holds: str, value: float, expected: str) -> None:
    estimate = Estimate(value=value, unit="similarity", is_exact=True)
    assert verdict(claim("paired_effect", holds=holds), estimate, p_holm=math.nan) == expected


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


def test_a_correlation_has_the_interval_and_the_p_values_of_crossed_pairs() -> None:
    table = planted(np.random.default_rng(2), 5, 4, r=0.9)
    one = claim("correlation")
    found = ESTIMATORS["correlation"](study_of(table), one)
    test = qap(table)
    assert found.value == pytest.approx(stats.pearsonr(table.x.ravel(), table.y.ravel()).statistic)
    assert (found.low, found.high) == pytest.approx(pigeonhole(table).interval())
    assert (found.p_value, found.p_holds, found.p_fails) == pytest.approx((test.p_two_sided, test.p_greater, test.p_less))
    assert re.fullmatch(
        r"r = 0\.\d\d \(95 % interval 0\.\d\d to 0\.\d\d over mixes and tasks, 20 pairs, 5 mixes, 4 tasks; QAP p = 0\.\d+\)",
        found.text,
    )
    opposite = ESTIMATORS["correlation"](study_of(table), claim("correlation", holds="below"))
    assert (opposite.p_holds, opposite.p_fails) == (found.p_fails, found.p_holds)


def test_the_verdict_on_a_correlation_says_that_it_is_about_these_mixes_and_tasks() -> None:
    near, far = planted(np.random.default_rng(2), 5, 4, r=0.9), planted(np.random.default_rng(3), 5, 4, r=0.1)
    for table in (near, far):
        (row,) = (row for _, row in judge(study_of(table, claims=[claim("correlation")])).iterrows())
        assert row["scope"] == scope(row["low"], row["high"]) != ""
    resampled = ESTIMATORS["correlation"](study_of(near), claim("correlation", margin=0.5))
    assert resampled.scope == "", "its p value is that of the resamples"


def test_another_margin_of_a_correlation_is_decided_by_the_resamples() -> None:
    table = planted(np.random.default_rng(2), 5, 4, r=0.9)
    resamples = pigeonhole(table)

    def p_values(holds: str, margin: float) -> tuple[float, float]:
        found = ESTIMATORS["correlation"](study_of(table), claim("correlation", holds=holds, margin=margin))
        return found.p_holds, found.p_fails

    above, below = resamples.p_above(0.5), resamples.p_below(0.5)
    assert p_values("above", 0.5) == pytest.approx((above, below))
    assert p_values("below", 0.5) == pytest.approx((below, above))
    holds, fails = p_values("within", 0.5)
    assert holds == pytest.approx(max(resamples.p_above(-0.5), below))
    assert fails == pytest.approx(min(1.0, 2 * min(above, resamples.p_below(-0.5))))


@pytest.mark.parametrize(
    ("mixes", "tasks", "seeds", "reason"),
    [
        (2, 3, (0, 1, 2), "expected at least 3 mixes, got 2"),
        (5, 1, (0, 1, 2), "expected at least 2 tasks, got 1"),
        (5, 4, (0,), "expected a pair with at least two seeds, got one seed"),
    ],
)
def test_a_correlation_over_too_little_decides_nothing(mixes: int, tasks: int, seeds: tuple[int, ...], reason: str) -> None:
    table = planted(np.random.default_rng(2), mixes, tasks, r=0.99)
    (row,) = (row for _, row in judge(study_of(table, seeds=seeds, claims=[claim("correlation")])).iterrows())
    assert row["verdict"] == "inconclusive"
    assert reason in row["ours"]
    assert row["value"] > 0.9
    assert math.isnan(row["p_value"])


def test_a_correlation_waits_for_its_pairs() -> None:
    table = planted(np.random.default_rng(2), 5, 4, r=0.9)
    table.y[4, 3] = math.nan
    assert "19 pairs, 5 mixes, 4 tasks" in ESTIMATORS["correlation"](study_of(table), claim("correlation")).text
    few = judged(claim("correlation", arms={"task": "pycode"}))
    assert few["verdict"] == "inconclusive"
    assert few["ours"] == "no correlation: expected at least 4 pairs, got 3"


def test_a_correlation_over_several_arms_of_a_mix_cannot_be_judged() -> None:
    row = judged(claim("correlation"), sizes=("micro", "small"))
    assert row["ours"].startswith(
        "cannot be judged: expected one arm, apart from seeds, of the mix code and the task pycode"
    )


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


GAINS = (0.50, 0.54, 0.46)
"""Nats by which code lowers the pycode loss, by trunk seed."""


@pytest.mark.parametrize(("holds", "alternative"), [("above", "greater"), ("below", "less")])
@pytest.mark.parametrize("margin", [0.0, 0.35, 0.45, 0.6])
def test_a_directional_claim_is_decided_by_the_two_sided_t_test_at_its_margin(
    holds: str, alternative: str, margin: float
) -> None:
    row = judged(claim("paired_effect", arms=CODE, options={"scale": "difference"}, holds=holds, margin=margin))
    test = stats.ttest_1samp(GAINS, margin)
    in_its_favour = stats.ttest_1samp(GAINS, margin, alternative=alternative).pvalue < 0.5
    assert row["p_value"] == pytest.approx(test.pvalue)
    assert row["verdict"] == ("inconclusive" if test.pvalue > 0.05 else "yes" if in_its_favour else "no")


@pytest.mark.parametrize(("margin", "expected"), [(0.60, "yes"), (0.57, "yes"), (0.55, "inconclusive"), (0.3, "no")])
def test_a_claim_of_no_change_is_decided_by_two_one_sided_tests_at_5_percent(margin: float, expected: str) -> None:
    row = judged(claim("paired_effect", arms=CODE, options={"scale": "difference"}, holds="within", margin=margin))
    above = stats.ttest_1samp(GAINS, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(GAINS, margin, alternative="less").pvalue
    outside = 2 * stats.ttest_1samp(GAINS, margin, alternative="greater").pvalue
    assert row["p_value"] == pytest.approx(min(max(above, below), outside))
    assert row["verdict"] == expected
    if margin == 0.57:
        assert row["high"] > margin  # TOST at 5 % is the 90 % interval; the shown 95 % interval is wider


def test_the_best_of_several_is_better_than_each() -> None:
    row = judged(claim("best_of", arms=MATH))
    math_gains = np.array(KNOWN_EFFECTS[MATH["mix"], "word_problems"])
    rivals = [0.0, np.array(KNOWN_EFFECTS["code", "word_problems"]), np.array(KNOWN_EFFECTS["instruction", "word_problems"])]
    p_values = [stats.ttest_1samp(math_gains - rival, 0, alternative="greater").pvalue for rival in rivals]
    assert row["p_value"] == pytest.approx(2 * max(p_values))
    lost = judged(claim("best_of", arms={"mix": "code", "task": "word_problems"}))
    against = [
        stats.ttest_1samp(np.array(KNOWN_EFFECTS["code", "word_problems"]) - rival, 0, alternative="less").pvalue
        for rival in (0.0, math_gains, np.array(KNOWN_EFFECTS["instruction", "word_problems"]))
    ]
    assert lost["p_value"] == pytest.approx(2 * 3 * min(against))
    assert lost["verdict"] == "no"


def test_all_within_is_the_largest_equivalence_test_or_the_smallest_opposite_times_the_cells() -> None:
    row = judged(claim("all_within", **WITHIN))
    losses = {"math": KNOWN_EFFECTS["math", "pycode"], "instruction": KNOWN_EFFECTS["instruction", "pycode"]}
    controls = [4.802, 4.832, 4.782]
    p_values = []
    for mix_gains in losses.values():
        relative = [gain / control for gain, control in zip(mix_gains, controls, strict=True)]
        p_values += [stats.ttest_1samp(relative, -0.02, alternative="greater").pvalue]
        p_values += [stats.ttest_1samp(relative, 0.02, alternative="less").pvalue]
    assert row["p_value"] == pytest.approx(max(p_values))
    failing = judged(claim("all_within", **WITHIN), sft_loss={("instruction", "pycode"): -0.4})
    gains = [gain + 0.4 for gain in losses["instruction"]]
    relative = [gain / control for gain, control in zip(gains, controls, strict=True)]
    outside = 2 * stats.ttest_1samp(relative, 0.02, alternative="greater").pvalue
    assert failing["p_value"] == pytest.approx(2 * outside)


@pytest.mark.parametrize(("estimator", "holds"), [("best_of", "below"), ("best_of", "within"), ("all_within", "above")])
def test_an_estimator_that_fixes_the_direction_rejects_a_claim_with_another(estimator: str, holds: str) -> None:
    row = judged(claim(estimator, arms=CODE, holds=holds))
    assert row["verdict"] == "inconclusive"
    assert f"of a claim with the estimator {estimator}, got {holds!r}" in row["ours"]


def test_a_verdict_needs_a_corrected_p_below_5_percent() -> None:
    weak = claim("paired_effect", arms={"mix": "code", "task": "word_problems"}, options={"scale": "difference"})
    alone = judged(weak)
    assert (alone["verdict"], alone["p_value"]) == ("inconclusive", pytest.approx(0.0742, abs=1e-4))
    near = claim("paired_effect", arms=MATH, options={"scale": "difference"}, margin=0.13)
    p_value = stats.ttest_1samp([gain - 0.13 for gain in KNOWN_EFFECTS["math", "word_problems"]], 0).pvalue
    assert 0.025 < p_value < 0.05
    assert judged(near)["verdict"] == "yes"
    both = judge(bridging_tables(claims=[near, weak]))
    assert both["p_holm"][0] == pytest.approx(2 * p_value)
    assert both["verdict"].tolist() == ["inconclusive", "inconclusive"]
    assert (both["low"][0], both["high"][0]) == (judged(near)["low"], judged(near)["high"])


def test_an_exact_value_is_not_part_of_the_family() -> None:
    found = judge(bridging_tables(claims=[claim("paired_effect", arms=CODE), claim(f"{__name__}:exact_gain")]))
    assert found["p_holm"][0] == pytest.approx(found["p_value"][0])
    assert math.isnan(found["p_holm"][1])


def test_values_that_do_not_vary_over_seeds_stay_undecided() -> None:
    rows = [
        {"recipe": recipe, "seed": seed, "score": 0.5 + gain}
        for recipe, gain in (("base", 0), ("new", 1))
        for seed in (0, 1)
    ]
    comparison = {"name": "new", "arms": {"recipe": "new"}, "references": {"recipe": "base"}, "columns": ("score",)}
    one = claim("paired_effect", comparison="new", column="score", options={"scale": "difference"})
    found = judge(tables_of(rows, [comparison], columns={"score": "higher"}, seeds=("seed",), claims=[one]))
    assert (found["verdict"][0], found["value"][0]) == ("inconclusive", 1.0)
    assert math.isnan(found["p_holm"][0])


def two_sided(tables: Tables, one: Claim) -> Estimate:
    """An estimator that gives a two-sided p value of zero alone, as that of a permutation test."""
    return Estimate(value=0.4, p_value=0.01, unit="r")


@pytest.mark.parametrize(
    ("fields", "p_value", "expected"),
    [({}, 0.01, "yes"), ({"holds": "below"}, 0.01, "no"), ({"margin": 0.3}, math.nan, "inconclusive")],
)
def test_a_two_sided_p_of_zero_decides_a_directional_claim_at_zero_alone(
    fields: dict[str, Any], p_value: float, expected: str
) -> None:
    row = judged(claim(f"{__name__}:two_sided", **fields))
    assert (row["p_value"], row["verdict"]) == (pytest.approx(p_value, nan_ok=True), expected)


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
