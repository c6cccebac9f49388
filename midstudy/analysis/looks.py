"""Looks at a study whose seeds grow: which level a claim is judged at now, given the looks so far.

A look is recorded when a report judges claims with more seeds than before. With planned looks (`Study.looks`), the error is
spent up to the fraction that the study's seeds are of the planned ones (`spending.py`), at each look and for each claim by
the seeds of its own test. Without them, every report judges at the whole level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from midstudy.analysis.decisions import ALPHA, Decision, decision_p
from midstudy.analysis.estimators import Estimate
from midstudy.analysis.spending import corrected_for_looks, levels
from midstudy.recipe.study import Claim
from midstudy.store.looks import Look


@dataclass(frozen=True)
class History:
    """The looks at which one claim was tested, the current one last: seeds, and fractions of the error's spending."""

    fractions: tuple[float, ...] = (1.0,)
    seeds: tuple[float, ...] = (1.0,)

    @property
    def is_single(self) -> bool:
        """True if the whole level is available, because this is the only look."""
        return len(self.fractions) == 1 and self.fractions[0] >= 1

    def level(self, holds: str) -> float:
        """Return the level of this look's p value for a claim that is alone in its family."""
        return ALPHA if self.is_single else float(levels(ALPHA, self.fractions, self.seeds, sides=_sides(holds))[-1])

    def corrected(self, decision: Decision, holds: str) -> float:
        """Return the p value that decides the claim (`decisions.decision_p`), corrected for the looks.

        The p value of several tests is corrected before it is multiplied by their number: each test spends its own share.
        """
        if self.is_single:
            return decision_p(decision, holds=holds)
        sides = _sides(holds)
        tests = ((decision.p_holds, 1), (decision.p_fails, decision.num_fails))
        known = [(min(1.0, sides * p / number), number) for p, number in tests if not math.isnan(p)]
        corrected = corrected_for_looks([p for p, _ in known], self.fractions, self.seeds, sides=sides)
        return min((min(1.0, number * float(p)) for p, (_, number) in zip(corrected, known, strict=True)), default=math.nan)


def _sides(holds: str) -> int:
    return 1 if holds == "within" else 2


def seeds_of(estimate: Estimate, *, num_seeds: int) -> int:
    """Return the seeds behind a claim's test: those of the study if it is not decided over seeds, 0 if it is not tested."""
    if all(math.isnan(p) for p in (estimate.p_holds, estimate.p_fails, estimate.p_value)):
        return 0
    return num_seeds if estimate.num_seeds is None else estimate.num_seeds


def this_look(planned: Sequence[int], found: Sequence[Estimate], before: Sequence[Look]) -> tuple[int, float]:
    """Return the study's number of seeds now, the largest of its claims, and the fraction up to which error is spent.

    Error once spent stays spent: the fraction does not fall when more seeds are planned later.
    """
    num_seeds = max((one.num_seeds or 0 for one in found), default=0)
    fraction = min(1.0, num_seeds / planned[-1]) if planned else 1.0
    return num_seeds, max([fraction, *(look.fraction for look in before)])


def history(claim: Claim, num_seeds: int, fraction: float, *, planned: Sequence[int], before: Sequence[Look]) -> History:
    """Return the looks at a claim whose test rests on `num_seeds` seeds now.

    Looks at which it was not tested spent nothing of its error, and looks at as many seeds as now are this look.
    """
    if not planned or num_seeds < 1:
        return History()
    by_seeds = fractions_before(claim, num_seeds, before)
    fractions = [*(by_seeds[one] for one in sorted(by_seeds)), fraction]
    seeds = (*map(float, sorted(by_seeds)), float(num_seeds))
    return History(tuple(np.maximum.accumulate(fractions).tolist()), seeds)


def fractions_before(claim: Claim, num_seeds: int, before: Sequence[Look]) -> dict[int, float]:
    """Return the looks that tested a claim with fewer seeds: the fraction of each number of seeds."""
    by_seeds: dict[int, float] = {}
    for look in before:
        then = look.seeds_by_claim().get(claim.text, 0)
        if 0 < then < num_seeds:
            by_seeds[then] = max(look.fraction, by_seeds.get(then, 0.0))
    return by_seeds


def is_new(num_seeds: Sequence[int], claims: Sequence[Claim], before: Sequence[Look]) -> bool:
    """Return whether some claim is tested with more seeds than at every look before."""
    most: dict[str, int] = {}
    for look in before:
        for text, number in look.seeds_by_claim().items():
            most[text] = max(number, most.get(text, 0))
    return any(number > most.get(claim.text, 0) for claim, number in zip(claims, num_seeds, strict=True))


def now() -> str:
    """Return the time of a look, UTC in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
