"""The tests that decide claims: one-sided t tests, equivalence tests, and their unions over several cells.

A claim that does not hold is the null hypothesis of `p_holds`, a claim that holds that of `p_fails`. Both are p values of
t tests over the replicating seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

ALPHA = 0.05
"""The familywise level of verdicts."""


@dataclass(frozen=True)
class Decision:
    """p values of the claim and of its opposite; NaN where nothing is tested.

    A small `p_holds` is evidence that the claim holds, a small `p_fails` that it does not. `p_fails` is the smallest p of
    `num_fails` tests, multiplied by their number.
    """

    p_holds: float = math.nan
    p_fails: float = math.nan
    num_fails: int = 1


def t_decision(mean: float, error: float, df: int, *, holds: str, margin: float) -> Decision:
    """Test a mean with `df` degrees of freedom and standard error `error` (NaN if there is no test) against a margin.

    `above` and `below`: one-sided t tests at `margin`. `within`: `p_holds` is the larger p of the two one-sided tests that
    the mean lies above −margin and below margin (TOST: Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987); `p_fails` is twice
    the smaller p of the tests that it lies above margin or below −margin (Bonferroni).
    """
    if math.isnan(mean) or math.isnan(error) or df < 1:
        return Decision()
    from scipy.special import stdtr

    def above(boundary: float) -> float:
        """p of the hypothesis that the mean is at most the boundary."""
        return float(stdtr(df, (boundary - mean) / error))

    def below(boundary: float) -> float:
        """p of the hypothesis that the mean is at least the boundary."""
        return float(stdtr(df, (mean - boundary) / error))

    if holds == "above":
        return Decision(above(margin), below(margin))
    if holds == "below":
        return Decision(below(margin), above(margin))
    return Decision(max(above(-margin), below(margin)), min(1.0, 2 * min(above(margin), below(-margin))), num_fails=2)


def for_all(decisions: Sequence[Decision]) -> Decision:
    """Decide a claim on every one of several cells.

    It holds only where it holds in each: the largest p (intersection-union test: Berger, Technometrics 24, 1982), NaN if a
    cell is not tested. It fails where it fails in any: the smallest p times the number of tested cells (Bonferroni, which is
    the first step of Holm's procedure).
    """
    tested = [one.p_fails for one in decisions if not math.isnan(one.p_fails)]
    holding = [one.p_holds for one in decisions]
    return Decision(
        p_holds=math.nan if not holding or any(map(math.isnan, holding)) else max(holding),
        p_fails=min(1.0, len(tested) * min(tested)) if tested else math.nan,
        num_fails=max(1, len(tested)) * max((one.num_fails for one in decisions), default=1),
    )


def decision_p(decision: Decision, *, holds: str) -> float:
    """Return the p value by which a claim is decided, in whichever direction; NaN if nothing is tested.

    Directional claims: two-sided, twice the smaller p, which is below 0.05 where the 95 % interval excludes the margin.
    Claims `within` a margin: the smaller p, because a claim and its opposite cannot both be false and each is tested at the
    full level, as equivalence tests are.
    """
    known = [p for p in (decision.p_holds, decision.p_fails) if not math.isnan(p)]
    if not known:
        return math.nan
    return min(known) if holds == "within" else min(1.0, 2 * min(known))


def favours(decision: Decision) -> bool:
    """True if the evidence is for the claim rather than against it."""
    return not math.isnan(decision.p_holds) and not decision.p_fails < decision.p_holds
