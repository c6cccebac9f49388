"""Predictors judged on trained candidates: planted truth passes, its reverse fails, noise is not judged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from scipy import stats

from midstudy.analysis.judgement import (
    TaskScore,
    Trained,
    decidable,
    mean_regret,
    mean_rho,
    over_studies,
    score_task,
    share_right,
    verdict,
)

SEEDS = (0, 1, 2, 3)
NOISE = np.array([0.0004, -0.0004, 0.0003, -0.0003])


def trained(truth: Mapping[str, float], scores: Mapping[str, float], *, noise: float = 1.0) -> list[Trained]:
    """Candidates whose improvements are the truth, with noise that differs between candidates."""
    return [
        Trained(
            candidate=name,
            improvements={
                seed: value + noise * shift * (1 + place)
                for seed, shift in zip(SEEDS, np.roll(NOISE, place).tolist(), strict=True)
            },
            scores={"p": scores[name]},
        )
        for place, (name, value) in enumerate(truth.items())
    ]


TRUTH = {"a": 0.05, "b": 0.03, "c": 0.01, "d": 0.0}


def judged(scores: Mapping[str, float], study: str = "s", truth: Mapping[str, float] = TRUTH) -> TaskScore:
    return score_task(trained(truth, scores), "p", study=study, task="t")


def test_a_predictor_that_knows_the_truth_is_right_everywhere() -> None:
    found = judged(TRUTH)
    assert (found.rho, found.regret, found.num_right, found.num_decidable) == (pytest.approx(1.0), 0.0, 6, 6)


def test_the_reverse_of_the_truth_is_wrong_everywhere_and_costs_the_whole_improvement() -> None:
    found = judged({name: -value for name, value in TRUTH.items()})
    assert (found.rho, found.num_right) == (pytest.approx(-1.0), 0)
    assert found.regret == pytest.approx(0.05)


def test_regret_is_what_the_top_of_the_predictor_loses_in_the_mean_over_ties() -> None:
    assert judged({"a": 1, "b": 2, "c": 0, "d": 0}).regret == pytest.approx(0.02)
    assert judged({"a": 0, "b": 2, "c": 2, "d": 0}).regret == pytest.approx(0.05 - 0.02)
    assert judged(dict.fromkeys(TRUTH, 1.0)).regret == pytest.approx(0.05 - 0.0225)


def test_a_tie_of_the_predictor_is_half_right_and_has_no_rank_correlation() -> None:
    found = judged(dict.fromkeys(TRUTH, 1.0))
    assert found.num_right == 0.5 * found.num_decidable == 3
    assert math.isnan(found.rho)
    assert math.isnan(mean_rho([found]))


def test_a_pair_within_its_noise_is_not_decidable_and_no_predictor_is_judged_by_it() -> None:
    close = {"a": 0.05, "b": 0.0499, "c": 0.0}
    pairs = [(better.candidate, worse.candidate) for better, worse in decidable(trained(close, close))]
    assert pairs == [("a", "c"), ("b", "c")]
    right = judged({"a": 1, "b": 2, "c": 0}, truth=close)
    assert (right.num_right, right.num_decidable) == (2, 2)


def test_decidable_is_the_paired_t_test_over_common_seeds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = rng.normal(0.002, 0.002, 4), rng.normal(0, 0.002, 4)
        both = [
            Trained(candidate=name, improvements=dict(zip(SEEDS, values.tolist(), strict=True)), scores={})
            for name, values in (("a", a), ("b", b))
        ]
        assert bool(decidable(both)) == bool(stats.ttest_rel(a, b).pvalue < 0.05)


def test_the_better_candidate_comes_first_in_whatever_order_they_are_given() -> None:
    found = decidable(trained(TRUTH, TRUTH)[::-1])
    assert {(better.candidate, worse.candidate) for better, worse in found} == {
        ("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d"),
    }  # fmt: skip


def test_one_seed_decides_nothing() -> None:
    one = [Trained(candidate=name, improvements={0: value}, scores={"p": value}) for name, value in TRUTH.items()]
    assert decidable(one) == []


def many(scores: Mapping[str, float], number: int = 3) -> list[TaskScore]:
    return [judged(scores, study=f"s{place}") for place in range(number)]


WORSE = {"a": 1, "b": 2, "c": 3, "d": 0}


def test_a_predictor_that_is_right_passes_beside_worse_rivals() -> None:
    found = verdict(many(TRUTH), {"rival": many(WORSE)})
    assert found.answer == "passed"


def test_a_predictor_without_skill_fails_by_regret_and_by_pairs() -> None:
    found = verdict(many(WORSE), {})
    assert found.answer == "failed"
    assert "regret at 1 is 4.00 points, the bar 1" in found.reasons
    assert any(reason.startswith("50 % of 18 decidable pairs are right") for reason in found.reasons)


def test_a_rival_that_is_better_in_a_single_study_fails_the_predictor_and_is_named() -> None:
    swapped = {"a": 0.05, "b": 0.03, "c": 0.0, "d": 0.01}  # one pair of six is wrong, no regret
    own = [*many(TRUTH, 4), judged(swapped, study="odd")]
    rival = [*many(WORSE, 4), judged(TRUTH, study="odd")]
    found = verdict(own, {"rival": rival})
    assert share_right(own) > 0.85
    assert found.answer == "failed"
    assert found.reasons == ("odd: 5 decidable pairs right, with rival 6",)


def test_fewer_than_twelve_decidable_pairs_are_not_judged_however_wrong() -> None:
    assert verdict(many(WORSE, 1), {}).answer == "not judged"
    assert verdict(many(TRUTH, 2), {}).answer == "passed"  # 12


def test_intervals_resample_whole_studies_and_need_three() -> None:
    mixed = [*many(TRUTH, 2), judged(WORSE, study="odd")]
    total = over_studies(mixed, share_right)
    assert total.value == pytest.approx(15 / 18)
    assert (total.low, total.high) == pytest.approx((0.5, 1.0))
    same_study = [judged(scores, study="s") for scores in (TRUTH, TRUTH, WORSE)]
    assert math.isnan(over_studies(same_study, mean_regret).low)


def test_shares_are_over_pairs_and_ranks_over_tasks() -> None:
    def score(rho: float, right: float, number: int) -> TaskScore:
        return TaskScore(study="s", task="t", num_candidates=3, rho=rho, regret=0.0, num_right=right, num_decidable=number)

    scores: Sequence[TaskScore] = [score(1.0, 1, 1), score(0.0, 0, 9), score(math.nan, 0, 0)]
    assert share_right(scores) == pytest.approx(0.1)
    assert mean_rho(scores) == pytest.approx(0.5)
    assert math.isnan(share_right([score(1.0, 0, 0)]))
