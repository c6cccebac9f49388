"""What further seeds decide: planted effects, the price per decided claim, and claims that seeds do not decide."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders.analysis_tables import bridging_tables
from scipy import stats

from midstudy.analysis.allocation import Allocation, ClaimState, allocate, rows_of
from midstudy.analysis.estimators import Estimate
from midstudy.analysis.looks import History
from midstudy.analysis.power import upper_sd
from midstudy.analysis.spending import levels
from midstudy.recipe.study import Claim

SEED_S = 100.0


def state(
    effect: float = 1.0, sd: float = 1.0, *, num_seeds: int = 3, finished: int | None = None, **fields: Any
) -> ClaimState:
    """Return an undecided claim with this measured effect and sd; by default all seeds of the grid are finished."""
    finished = num_seeds if finished is None else finished
    measured = Estimate(unit="nats", value=effect, error=sd / math.sqrt(finished), df=finished - 1, num_seeds=finished)
    claim = Claim(**{"text": "it helps", "source": "here", "estimator": "paired_effect"} | fields.pop("claim", {}))
    given: dict[str, Any] = {
        "claim": claim,
        "verdict": "inconclusive",
        "measured": measured,
        "planned": Estimate(unit="nats", num_seeds=num_seeds, p_holds=0.5, p_fails=0.5),
        "grown": Estimate(unit="nats", num_seeds=num_seeds + 1, p_holds=0.5, p_fails=0.5),
        "history": History(),
        "own_seed_s": SEED_S / 2,
    }
    return ClaimState(**given | fields)


def allocated(*states: ClaimState, looks: tuple[int, ...] = (), budget_s: float | None = None) -> Allocation:
    return allocate(states, seed_s=SEED_S, unfinished_s=0.0, looks=looks, budget_s=budget_s)


def decided(*, effect: float, sd: float, num_seeds: int, level: float) -> float:
    """The share of simulated studies in which a claim of a positive effect is decided in its direction."""
    samples = np.random.default_rng(num_seeds).normal(effect, sd, size=(100_000, num_seeds))
    found = stats.ttest_1samp(samples, 0, axis=1)
    return float(np.mean((found.pvalue < level) & (found.statistic > 0)))


@pytest.mark.parametrize("effect", [2.0, 4.0])
@pytest.mark.parametrize("num_open", [1, 3])
def test_the_seeds_proposed_decide_a_planted_effect_with_80_percent_power_and_one_less_do_not(
    effect: float, num_open: int
) -> None:
    sd = 1.0
    found = allocated(*[state(effect, sd, num_seeds=3)] * num_open).needs[0]
    assert found.seeds_needed is not None
    true_sd, level = upper_sd(sd, df=2), 0.05 / num_open
    assert decided(effect=effect, sd=true_sd, num_seeds=found.seeds_needed, level=level) > 0.79
    assert decided(effect=effect, sd=true_sd, num_seeds=found.seeds_needed - 1, level=level) < 0.81


def test_with_planned_looks_the_level_is_that_of_the_look() -> None:
    looks = (3, 8, 12, 20)
    seen = History((3 / 20,), (3.0,))
    found = allocated(state(2.0, 1.0, history=seen), looks=looks).needs[0]
    by_look = levels(0.05, [one / 20 for one in looks], looks)
    shares = [
        decided(effect=2.0, sd=upper_sd(1.0, df=2), num_seeds=look, level=level)
        for look, level in zip(looks[1:], by_look[1:], strict=True)
    ]
    first = next(look for look, share in zip(looks[1:], shares, strict=True) if share > 0.8)
    assert min(abs(share - 0.8) for share in shares) > 0.01, "the simulation is clear"
    assert found.seeds_needed == first
    unlooked = allocated(state(2.0, 1.0)).needs[0]
    assert unlooked.seeds_needed is not None
    assert unlooked.seeds_needed < first


def test_no_more_seeds_than_planned_are_proposed() -> None:
    found = allocated(state(0.5, 1.0, history=History((3 / 5,), (3.0,))), looks=(3, 5))
    assert found.needs[0].problem == "too close to its margin: not decided by the 5 planned seeds"
    assert found.proposed is None


def test_steps_are_ranked_by_cost_per_claim_decided() -> None:
    near, far, farther = state(3.0), state(1.2), state(1.1)
    found = allocated(near, far, farther)
    more = [one.more_seeds for one in found.needs]
    assert more[0] is not None
    assert more[0] < (more[1] or 0) < (more[2] or 0)
    by_more = {step.more_seeds: step for step in found.steps}
    assert [by_more[one or 0].claims for one in more] == [(1,), (1, 2), (1, 2, 3)]
    assert all(step.cost_s == SEED_S * step.more_seeds for step in found.steps)
    costs = [step.cost_per_claim_s for step in found.steps]
    assert costs == sorted(costs)
    assert found.proposed == found.steps[0]
    many = allocated(near, *[far] * 6)
    assert many.proposed is not None
    assert len(many.proposed.claims) == 7, "six claims for a few more seeds are cheaper each than the first alone"


def test_a_budget_removes_the_steps_beyond_it() -> None:
    near, far = state(3.0), state(1.2)
    limit = (allocated(near, far).needs[0].cost_s or 0.0) + 1
    found = allocated(near, far, budget_s=limit)
    assert [one.problem for one in found.needs] == [None, "cannot be decided within the budget"]
    assert [step.claims for step in found.steps] == [(1,)]
    assert allocated(near, far, budget_s=SEED_S / 2).proposed is None


def test_a_decided_claim_needs_nothing_and_leaves_its_family() -> None:
    """Holm's method goes on with the claims that are left."""
    done = replace(state(), verdict="yes")
    left = allocated(done, done, state(2.0))
    assert [one.more_seeds for one in left.needs[:2]] == [None, None]
    assert left.needs[2].seeds_needed == allocated(state(2.0)).needs[0].seeds_needed
    together = allocated(state(2.0), state(2.0), state(2.0)).needs[2].seeds_needed
    assert together is not None
    assert together > (left.needs[2].seeds_needed or 0)


@pytest.mark.parametrize(
    ("one", "problem"),
    [
        (state(planned=Estimate(unit="r")), "not decided over seeds"),
        (state(grown=Estimate(unit="nats", num_seeds=3)), "another seed repeats none of its arms"),
        (state(finished=1), "expected at least two finished seeds that differ, got 1"),
        (state(0.0), "too close to its margin: not decided by 1,000 seeds"),
    ],
)
def test_a_claim_that_seeds_do_not_decide_says_why(one: ClaimState, problem: str) -> None:
    found = allocated(one)
    assert found.needs[0].problem == problem
    assert found.proposed is None


def test_a_claim_that_should_be_decided_and_is_not_waits_for_one_more_seed() -> None:
    assert allocated(state(50.0)).needs[0].more_seeds == 1


def test_seeds_of_the_grid_that_are_not_finished_come_first() -> None:
    found = allocate([state(4.0, num_seeds=6, finished=3)], seed_s=SEED_S, unfinished_s=30.0, looks=(), budget_s=None)
    assert (found.needs[0].seeds_needed or 99) <= 6
    assert (found.needs[0].more_seeds, found.needs[0].cost_s) == (0, 30.0)


def test_the_arms_of_a_claim_are_its_cells_with_references_and_rivals() -> None:
    manifest = bridging_tables().manifest
    claim = Claim(
        text="code", source="here", estimator="paired_effect", comparison="main", column="sft_loss",
        arms={"mix": "code", "task": "pycode"},
    )  # fmt: skip
    for estimator, mixes in (
        ("paired_effect", {"code", "control"}),
        ("best_of", {"code", "control", "math", "instruction"}),
    ):
        rows = rows_of(manifest, replace(claim, estimator=estimator))
        assert {manifest.arms[row].factors["mix"] for row in rows} == mixes
        assert {manifest.arms[row].factors["task"] for row in rows} == {"pycode"}
    assert rows_of(manifest, replace(claim, comparison="")) == []
