"""Power of claims: against simulation and published tables, and what a grid's seeds allow."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders.analysis_tables import KNOWN_EFFECTS, bridging_tables
from scipy import stats

from midstudy.analysis.claims import estimates
from midstudy.analysis.estimators import Estimate
from midstudy.analysis.power import (
    ClaimPower,
    claims_power,
    detectable_effect,
    detectable_margin,
    equivalence_power,
    level_at,
    seeds_needed,
    t_power,
    upper_sd,
)
from midstudy.analysis.rehearsal import rehearse
from midstudy.analysis.spending import levels
from midstudy.recipe.study import Claim
from midstudy.store.looks import JudgedClaim, Look

RNG = np.random.default_rng(11)


def claim(estimator: str = "paired_effect", **fields: Any) -> Claim:
    given = {"text": estimator, "source": "here", "estimator": estimator, "comparison": "main", "column": "sft_loss"}
    return Claim(**given | {"arms": {"mix": "code", "task": "pycode"}} | fields)


def power_of(*claims: Claim, is_measured: bool = False, **study: Any) -> tuple[ClaimPower, ...]:
    tables = bridging_tables(claims=claims, **study)
    return claims_power(claims, rehearse(tables.manifest), estimates(tables) if is_measured else None)


@pytest.mark.parametrize(("num_seeds", "effect_sd"), [(2, 9.0), (3, 3.26), (5, 1.2), (10, 1.0)])
@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_the_power_of_the_t_test_is_that_of_simulated_samples(num_seeds: int, effect_sd: float, alpha: float) -> None:
    samples = RNG.normal(effect_sd, 1, size=(100_000, num_seeds))
    found = stats.ttest_1samp(samples, 0, axis=1)
    simulated = ((found.pvalue < alpha) & (found.statistic > 0)).mean()
    assert t_power(num_seeds=num_seeds, effect_sd=effect_sd, alpha=alpha) == pytest.approx(simulated, abs=0.007)


@pytest.mark.parametrize(
    ("num_seeds", "margin_sd", "effect_sd"),
    [(3, 4.06, 0.0), (3, 4.06, 2.86), (6, 4.06, 2.86), (10, 2.36, 1.67), (4, 0.5, 0.0)],
)
def test_the_power_of_equivalence_is_that_of_simulated_samples(num_seeds: int, margin_sd: float, effect_sd: float) -> None:
    samples = RNG.normal(effect_sd, 1, size=(100_000, num_seeds))
    low, high = stats.ttest_1samp(samples, 0, axis=1).confidence_interval(0.90)
    simulated = ((low > -margin_sd) & (high < margin_sd)).mean()
    found = equivalence_power(num_seeds=num_seeds, margin_sd=margin_sd, effect_sd=effect_sd, alpha=0.05)
    assert found == pytest.approx(simulated, abs=0.007)


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (0.05, {3: 3.26, 5: 1.68, 6: 1.43, 8: 1.16, 10: 1.00}),
        (0.005, {3: 10.36, 5: 3.16, 6: 2.46, 8: 1.81, 10: 1.48}),
    ],
)
def test_the_detectable_effect_of_few_seeds(alpha: float, expected: dict[int, float]) -> None:
    for num_seeds, effect_sd in expected.items():
        assert detectable_effect(num_seeds=num_seeds, alpha=alpha) == pytest.approx(effect_sd, rel=0.01), num_seeds


def test_the_detectable_margin_has_80_percent_power() -> None:
    margin = detectable_margin(num_seeds=4, alpha=0.05)
    assert equivalence_power(num_seeds=4, margin_sd=margin, effect_sd=0, alpha=0.05) == pytest.approx(0.8, abs=1e-4)


def test_the_upper_bound_of_a_standard_deviation_is_above_it_in_80_percent_of_samples() -> None:
    sds = RNG.normal(size=(50_000, 3)).std(axis=1, ddof=1)
    assert np.mean([upper_sd(sd, df=2) > 1 for sd in sds[:2_000]]) == pytest.approx(0.8, abs=0.03)
    assert upper_sd(0.5, df=9) == pytest.approx(0.5 * math.sqrt(9 / stats.chi2.ppf(0.2, 9)))
    assert math.isnan(upper_sd(math.nan, df=2))
    assert math.isnan(upper_sd(0.5, df=0))


@pytest.mark.parametrize(
    ("holds", "margin", "effect", "expected"),
    [
        ("above", 0.0, 1.5, 6),
        ("above", 0.0, -1.5, 6),
        ("below", 1.0, 2.5, 6),
        ("within", 4.06, 0.0, 3),
        ("within", 4.06, 2.86, 6),
        ("within", 1.0, 2.5, 6),
        ("above", 0.0, 0.0, None),
    ],
)
def test_the_seeds_needed_have_80_percent_power_and_one_less_has_not(
    holds: str, margin: float, effect: float, expected: int | None
) -> None:
    # Distance 1.5 sd: 1.43 sd are detected with six seeds. Margin 4.06 sd: 0.039 nats at 0.0096, of which 2.86 are 0.0275.
    for unit in (1.0, 0.0096):
        found = seeds_needed(holds, margin=margin * unit, effect=effect * unit, sd=unit, alpha=0.05)
        assert found == expected


def test_before_anything_is_measured_a_claim_has_its_seeds_and_what_they_detect() -> None:
    first, second = power_of(claim(family="f"), claim(family="f", holds="within", margin=0.02))
    assert (first.number, first.num_seeds, first.can_be_decided, first.family_size) == (1, 3, True, 2)
    assert first.detectable_sd == pytest.approx(detectable_effect(num_seeds=3, alpha=0.05))
    assert first.detectable_sd_holm == pytest.approx(detectable_effect(num_seeds=3, alpha=0.025))
    assert second.detectable_sd == pytest.approx(detectable_margin(num_seeds=3, alpha=0.05))
    assert first.seeds_needed is None
    assert math.isnan(first.sd_upper)


def test_finished_seeds_give_the_seeds_needed_at_the_upper_bound_of_their_deviation() -> None:
    (found,) = power_of(claim(options={"scale": "difference"}), is_measured=True)
    gains = KNOWN_EFFECTS["code", "pycode"]
    sd = float(np.std(gains, ddof=1)) * math.sqrt(2 / stats.chi2.ppf(0.2, 2))
    assert (found.value, found.unit) == (pytest.approx(np.mean(gains)), "nats")
    assert found.sd_upper == pytest.approx(sd)
    assert found.seeds_needed == seeds_needed("above", margin=0, effect=0.5, sd=sd, alpha=0.05) == 3
    (near,) = power_of(claim(options={"scale": "difference"}, margin=0.45), is_measured=True)
    assert (near.seeds_needed or 0) > 10


def test_unfinished_arms_are_seeds_of_the_grid_all_the_same() -> None:
    (found,) = power_of(claim(), is_measured=True, unfinished=[{"size": "micro"}])
    assert (found.num_seeds, found.can_be_decided) == (3, True)
    assert math.isnan(found.sd_upper)


@pytest.mark.parametrize(
    "one",
    [
        claim(),
        claim("best_of"),
        claim("all_within", holds="within", margin=0.02, arms={"task": "pycode"}),
        claim("trend", comparison="timing", arms={}),
        claim("interaction", comparison="timing", options={"factor": "start_step", "level": 10, "other": 80}),
    ],
)
def test_one_seed_cannot_decide_a_claim(one: Claim) -> None:
    (found,) = power_of(one, trunk_seeds=(0,))
    assert (found.num_seeds, found.can_be_decided) == (1, False)
    assert math.isnan(found.detectable_sd)
    (three,) = power_of(one)
    assert (three.num_seeds, three.can_be_decided) == (3, True)


def test_claims_that_cannot_be_decided_are_not_counted_in_their_family() -> None:
    tables = bridging_tables()
    single = [row for row, arm in enumerate(tables.manifest.arms) if arm.factors["trunk_seed"] == 0]
    main = tables.manifest.comparison("main")
    few = replace(main, name="few", arms=tuple(row for row in main.arms if row in single))
    claims = (claim(family="f"), claim(family="f", comparison="few"), claim(family="g"))
    manifest = replace(tables.manifest, claims=claims, comparisons=(main, few))
    found = claims_power(claims, rehearse(manifest))
    assert [(one.can_be_decided, one.family_size) for one in found] == [(True, 1), (False, 1), (True, 1)]


def test_a_claim_that_is_not_decided_over_seeds_has_none() -> None:
    (found,) = power_of(claim("correlation", arms={}))
    assert (found.num_seeds, found.can_be_decided) == (None, None)


def test_a_rehearsal_rejects_a_claim_that_no_estimator_can_judge_and_names_its_cells() -> None:
    tables = bridging_tables(claims=[claim(), claim(text="code helps", arms={"mix": "code"})])
    with pytest.raises(
        ValueError, match=r"study.claims\[1\], 'code helps': arms: expected one cell .* got 2: size micro, mix"
    ):
        rehearse(tables.manifest)
    with pytest.raises(ValueError, match="'nothing': estimator: expected one of paired_effect, best_of"):
        rehearse(bridging_tables(claims=[claim("nothing")]).manifest)


def one_claim(holds: str = "above") -> Claim:
    return Claim(
        text="code helps", source="a paper", estimator="paired_effect", comparison="main", column="sft_loss", holds=holds,
        margin=0.01 if holds == "within" else 0.0,
    )  # fmt: skip


def planned_of(num_seeds: int) -> Estimate:
    return Estimate(unit="nats", num_seeds=num_seeds, p_holds=0.5, p_fails=0.5)


def power_at(num_seeds: int, *, looks: tuple[int, ...], sd: float) -> float:
    done = [look for look in looks if look <= num_seeds]
    level = float(levels(0.05, [look / looks[-1] for look in done], done)[-1])
    return t_power(num_seeds=num_seeds, effect_sd=1.0 / sd, alpha=level)


def look_at(num_seeds: int, *, of: int) -> Look:
    judged = JudgedClaim(text="code helps", digest="", num_seeds=num_seeds, verdict="inconclusive")
    return Look(time="", num_seeds=num_seeds, fraction=num_seeds / of, is_planned=True, claims=(judged,))


@pytest.mark.parametrize("holds", ["above", "within"])
def test_with_planned_looks_power_is_at_the_level_that_a_look_is_given(holds: str) -> None:
    """The level of an early look is far below 0.05, so that its seeds detect less; the last look has nearly all of it."""
    claim, looks = one_claim(holds), (4, 8)
    smallest = detectable_margin if holds == "within" else detectable_effect
    sides = 1 if holds == "within" else 2
    for num_seeds, done in ((4, (4,)), (8, (4, 8))):
        expected = float(levels(0.05, [one / 8 for one in done], done, sides=sides)[-1])
        (found,) = claims_power([claim], [planned_of(num_seeds)], looks=looks)
        assert found.level == pytest.approx(expected)
        assert expected < 0.05
        assert found.detectable_sd == pytest.approx(smallest(num_seeds=num_seeds, alpha=expected))
        (plain,) = claims_power([claim], [planned_of(num_seeds)])
        assert plain.level == 0.05
        assert found.detectable_sd > plain.detectable_sd


def test_recorded_looks_replace_the_planned_ones_that_they_passed() -> None:
    claim, planned = one_claim(), (3, 5, 8)
    skipped = level_at(claim, 8, 0.05, looks=planned, before=[look_at(6, of=8)])
    assert skipped == pytest.approx(float(levels(0.05, [6 / 8, 1.0], [6, 8])[-1])), "looks at 3 and 5 did not take place"
    assert level_at(claim, 8, 0.05, looks=planned, before=[look_at(3, of=8)]) == pytest.approx(
        level_at(claim, 8, 0.05, looks=planned, before=())
    ), "the first look took place as planned"


def test_error_that_a_look_without_a_plan_spent_is_not_there_for_planned_ones() -> None:
    """A report before looks were planned judged at the whole level, so that later looks have nothing to spend."""
    whole = [replace(look_at(3, of=3), is_planned=False)]
    assert level_at(one_claim(), 3, 0.05, looks=(3, 8), before=whole) == pytest.approx(0.05)
    assert level_at(one_claim(), 8, 0.05, looks=(3, 8), before=whole) == 0
    measured = Estimate(unit="nats", value=1.0, error=0.01, df=2, num_seeds=3)
    (found,) = claims_power([one_claim()], [planned_of(8)], [measured], looks=(4, 8), before=whole)
    assert (found.seeds_needed, found.last_look) == (None, 8)
    assert math.isnan(found.detectable_sd)


def test_the_seeds_needed_are_those_of_the_first_planned_look_that_decides() -> None:
    measured = Estimate(unit="nats", value=1.0, error=0.5 / math.sqrt(3), df=2, num_seeds=3)
    (free,) = claims_power([one_claim()], [planned_of(3)], [measured])
    (found,) = claims_power([one_claim()], [planned_of(3)], [measured], looks=(3, 8, 20))
    assert free.seeds_needed is not None
    decides = [look for look in (3, 8, 20) if power_at(look, looks=(3, 8, 20), sd=found.sd_upper) >= 0.8]
    assert found.seeds_needed == decides[0] >= free.seeds_needed
    (never,) = claims_power([one_claim()], [planned_of(3)], [measured], looks=(3, 4))
    assert (never.seeds_needed, never.last_look) == (None, 4)
