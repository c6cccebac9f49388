"""Which claims the next seeds would decide, and what that costs: seeds are bought where a decided claim is cheapest.

Every further seed repeats the same cells, so a study with k more seeds decides the claims that need at most k, and its
price is k times that of one seed, with what is shared counted once. The seeds that a claim needs are those with which it is
decided with 80 % power if the measured value is the true effect and its standard deviation the upper 80 % bound of the
measured one.
The idea, to spend replications where (sd/gap)² per cost is small, is that of optimal computing budget allocation (Chen, Lin,
Yücesan and Chick, Discrete Event Dyn. Syst. 10, 2000).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from midstudy.analysis.decisions import ALPHA
from midstudy.analysis.estimators import Estimate
from midstudy.analysis.looks import History
from midstudy.analysis.power import MAX_SEEDS, POWER, power_of_seeds, seeds_needed, upper_sd
from midstudy.analysis.spending import levels
from midstudy.recipe.factors import selects
from midstudy.recipe.manifest import Manifest
from midstudy.recipe.study import Claim


@dataclass(frozen=True, kw_only=True)
class ClaimState:
    """What is known of a claim before further seeds are allocated.

    `planned` and `grown` are its estimates on the grid as it is and with one seed more, with values of no meaning
    (`rehearsal.rehearse`), `measured` that of the finished seeds. `history` are the looks at which it was tested.
    `own_seed_s` is the cost in seconds of one more seed of its cells alone.
    """

    claim: Claim
    verdict: str
    measured: Estimate
    planned: Estimate
    grown: Estimate
    history: History
    own_seed_s: float


@dataclass(frozen=True, kw_only=True)
class ClaimNeed:
    """What one claim needs to be decided. `number` counts the study's claims from 1.

    `num_seeds` are its finished seeds, `seeds_needed` those with which it is decided, `more_seeds` how many that is beyond
    the planned grid, `cost_s` what the study costs with so many. `problem` says why further seeds are not expected to decide
    it, in which case the unknown ones of these are `None`; it is `None` for a claim that they are expected to decide, and
    for one that is decided.
    """

    number: int
    text: str
    verdict: str
    num_seeds: int
    unit: str
    value: float
    sd_upper: float
    seeds_needed: int | None
    more_seeds: int | None
    own_seed_s: float
    cost_s: float | None
    problem: str | None


@dataclass(frozen=True, kw_only=True)
class Step:
    """A number of further seeds: the claims (by number) that they are expected to decide, and the cost in seconds."""

    more_seeds: int
    claims: tuple[int, ...]
    cost_s: float

    @property
    def cost_per_claim_s(self) -> float:
        return self.cost_s / len(self.claims)


@dataclass(frozen=True)
class Allocation:
    """The needs of all claims, in the study's order, and the steps within the budget, the cheapest per claim first."""

    needs: tuple[ClaimNeed, ...]
    steps: tuple[Step, ...]

    @property
    def proposed(self) -> Step | None:
        return self.steps[0] if self.steps else None


def allocate(
    states: Sequence[ClaimState], *, seed_s: float, unfinished_s: float, looks: Sequence[int], budget_s: float | None
) -> Allocation:
    """Return what each undecided claim needs, and the numbers of further seeds ranked by cost per claim decided.

    Args:
        seed_s: the cost of one more seed of the whole study, in seconds.
        unfinished_s: the cost of what the grid still lacks.
        looks: the planned looks; further seeds go to one of them, and to no more seeds than the last.
        budget_s: limit on the cost of a step; `None` for no limit.
    """
    needs = tuple(
        _need(number, state, states, seed_s=seed_s, unfinished_s=unfinished_s, looks=looks, budget_s=budget_s)
        for number, state in enumerate(states, start=1)
    )
    wanted = {one.number: one.more_seeds for one in needs if one.problem is None and one.more_seeds is not None}
    steps = [
        Step(
            more_seeds=more,
            claims=tuple(number for number, needed in wanted.items() if needed <= more),
            cost_s=unfinished_s + more * seed_s,
        )
        for more in sorted(set(wanted.values()))
    ]
    return Allocation(needs, tuple(sorted(steps, key=lambda step: step.cost_per_claim_s)))


def rows_of(manifest: Manifest, claim: Claim) -> list[int]:
    """Return the rows of the arms that a claim reads: those it selects, with their rivals if it is `best_of`, and their
    references."""
    comparison = next((one for one in manifest.comparisons if one.name == claim.comparison), None)
    if comparison is None:
        return []
    factors = [arm.factors for arm in manifest.arms]
    arms = [row for row in comparison.arms if selects(claim.arms, factors[row])]
    shared = {tuple(factors[row][name] for name in comparison.match) for row in arms}
    others = [*comparison.references, *(comparison.arms if claim.estimator == "best_of" else ())]
    matched = [row for row in others if tuple(factors[row][name] for name in comparison.match) in shared]
    return list(dict.fromkeys([*arms, *matched]))


def _need(
    number: int,
    state: ClaimState,
    states: Sequence[ClaimState],
    *,
    seed_s: float,
    unfinished_s: float,
    looks: Sequence[int],
    budget_s: float | None,
) -> ClaimNeed:
    measured = state.measured
    planned, finished = state.planned.num_seeds, measured.num_seeds or 0
    sd = upper_sd(measured.error * math.sqrt(measured.df + 1), df=measured.df)
    needed = more = cost_s = problem = None
    if state.verdict == "inconclusive":
        if planned is None:
            problem = "not decided over seeds"
        elif not (state.grown.num_seeds or 0) > planned:
            problem = "another seed repeats none of its arms"
        elif math.isnan(sd):
            problem = f"expected at least two finished seeds that differ, got {finished}"
        else:
            needed = _seeds_needed(state, sd, _num_open(state, states), looks)
            if needed is None:
                most = f"the {looks[-1]} planned seeds" if looks else f"{MAX_SEEDS:,} seeds"
                problem = f"too close to its margin: not decided by {most}"
            else:
                # A claim that is undecided with as many seeds as it should need waits for one more.
                more = max(needed - planned, 1 if finished >= planned else 0)
                cost_s = unfinished_s + more * seed_s
                if budget_s is not None and cost_s > budget_s:
                    problem = "cannot be decided within the budget"
    return ClaimNeed(
        number=number,
        text=state.claim.text,
        verdict=state.verdict,
        num_seeds=finished,
        unit=measured.unit,
        value=measured.value,
        sd_upper=sd,
        seeds_needed=needed,
        more_seeds=more,
        own_seed_s=state.own_seed_s,
        cost_s=cost_s,
        problem=problem,
    )


def _num_open(state: ClaimState, states: Sequence[ClaimState]) -> int:
    """Return the number of undecided claims of the family that can be tested: Holm's first step among them."""
    return sum(
        other.claim.family == state.claim.family
        and other.verdict == "inconclusive"
        and (other.planned.num_seeds is None or not math.isnan(other.planned.p_holds))
        for other in states
    )


def _seeds_needed(state: ClaimState, sd: float, num_open: int, looks: Sequence[int]) -> int | None:
    """Return the seeds that decide the claim; in a study with planned looks, those of the first further look that does."""
    claim, effect, alpha = state.claim, state.measured.value, ALPHA / max(1, num_open)
    if not looks:
        return seeds_needed(claim.holds, margin=claim.margin, effect=effect, sd=sd, alpha=alpha)
    before = [pair for pair in zip(state.history.seeds, state.history.fractions, strict=True) if pair[0] >= 2]
    for look in looks:
        if look <= (before[-1][0] if before else 0):
            continue
        before.append((float(look), max(look / looks[-1], before[-1][1] if before else 0.0)))
        seeds, fractions = zip(*before, strict=True)
        level = float(levels(alpha, fractions, seeds, sides=1 if claim.holds == "within" else 2)[-1])
        if not level > 0:
            return None
        if power_of_seeds(claim.holds, look, margin=claim.margin, effect=effect, sd=sd, alpha=level) >= POWER:
            return look
    return None
