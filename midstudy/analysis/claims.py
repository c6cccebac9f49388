"""Verdicts on a study's claims: yes, no or inconclusive.

A verdict is a test. Each claim has the p values of its decision (`decisions.Decision`); they are corrected by Holm's method
within the claim's family, and a claim is decided if its corrected p is below 0.05. In a study that planned several looks,
p values are corrected for the looks first (`looks.py`), and a claim that was decided at an earlier look stays decided. A
single seed decides nothing. Absolute losses are not compared with the source's: they depend on model size, tokenizer and
text.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from midstudy.analysis.decisions import ALPHA, Decision, decision_p, favours
from midstudy.analysis.estimators import Estimate, find_estimator
from midstudy.analysis.intervals import holm
from midstudy.analysis.looks import history, is_new, seeds_of, this_look
from midstudy.analysis.tables import Tables
from midstudy.recipe.registration import claim_digest
from midstudy.recipe.study import Claim

YES, NO, INCONCLUSIVE = "yes", "no", "inconclusive"


@dataclass(frozen=True)
class ClaimRow:
    """A claim, what its source reports, and what this study measured.

    `value` and its 95 % interval are in `unit`, and NaN if not measured. `p_value` is the p of the decision, in whichever
    direction: two-sided for directional claims, the smaller of the equivalence test and its opposite for `within`. `p_holm`
    is corrected for the looks and over the tested claims of the same `family`; claims without a family form one. Both are
    NaN for a claim that is not tested, as one whose value is exact. `num_seeds` are the seeds behind the test, 0 if it is
    not tested. `level` is what `p_value` must lie below at this look if the claim is alone in its family. `look` is the
    number of the look that gave the verdict, counted from 1. `scope` says what the verdict is about (`Estimate.scope`).
    """

    text: str
    source: str
    cited: str
    ours: str
    verdict: str
    value: float
    low: float
    high: float
    unit: str
    family: str
    p_value: float
    p_holm: float
    num_seeds: int
    level: float
    look: int
    scope: str


def judge(tables: Tables) -> pd.DataFrame:
    """Return one row per claim of the study (`ClaimRow`), in the study's order.

    A claim whose arms are not finished is inconclusive. So is one that its estimator rejects with a ValueError: the message
    is in `ours`, and the rest of the report can still be made.
    """
    claims, planned, before = tables.manifest.claims, tables.manifest.looks, tables.looks
    found = estimates(tables)
    decisions = [_decision(*pair) for pair in zip(claims, found, strict=True)]
    p_values = np.array([decision_p(one, holds=claim.holds) for one, claim in zip(decisions, claims, strict=True)])
    in_all, fraction = this_look(planned, found, before)
    num_seeds = [seeds_of(one, num_seeds=in_all) for one in found]
    histories = [
        history(claim, number, fraction, planned=planned, before=before)
        for claim, number in zip(claims, num_seeds, strict=True)
    ]
    spent = np.array(
        [past.corrected(one, claim.holds) for past, one, claim in zip(histories, decisions, claims, strict=True)]
    )
    families = np.array([claim.family for claim in claims])
    corrected = np.full(len(claims), math.nan)
    for family in dict.fromkeys(families):
        corrected[families == family] = holm(spent[families == family])
    look = len(before) + is_new(num_seeds, claims, before)
    rows = []
    for index, (claim, estimate) in enumerate(zip(claims, found, strict=True)):
        p_holm = float(corrected[index])
        decided = verdict(claim, estimate, p_holm=p_holm), look
        if planned and decided[0] == INCONCLUSIVE:
            decided = _decided_before(tables, claim) or decided
        rows.append(
            ClaimRow(
                text=claim.text,
                source=claim.source,
                cited=claim.cited,
                ours=estimate.text,
                verdict=decided[0],
                value=estimate.value,
                low=estimate.low,
                high=estimate.high,
                unit=estimate.unit,
                family=claim.family,
                p_value=float(p_values[index]),
                p_holm=p_holm,
                num_seeds=num_seeds[index],
                level=histories[index].level(claim.holds) if num_seeds[index] else math.nan,
                look=decided[1],
                scope=estimate.scope,
            )
        )
    return pd.DataFrame([asdict(row) for row in rows], columns=list(ClaimRow.__dataclass_fields__))


def estimates(tables: Tables) -> list[Estimate]:
    """Return the estimate of every claim; that of a claim which its estimator rejects is NaN and says why in its text."""
    return [_estimated(tables, claim) for claim in tables.manifest.claims]


def verdict(claim: Claim, estimate: Estimate, *, p_holm: float) -> str:
    """Decide a claim by its corrected p value and the direction of its tests, or by the value alone if that is exact."""
    if estimate.is_exact:
        return _exact_verdict(claim, estimate.value)
    if not p_holm < ALPHA:
        return INCONCLUSIVE
    return YES if favours(_decision(claim, estimate)) else NO


def _estimated(tables: Tables, claim: Claim) -> Estimate:
    try:
        return find_estimator(claim.estimator)(tables, claim)
    except ValueError as error:
        return Estimate(unit="", text=f"cannot be judged: {error}")


def _decision(claim: Claim, estimate: Estimate) -> Decision:
    """Return the estimate's tests of the claim; none of an exact value, which is not tested."""
    if estimate.is_exact:
        return Decision()
    given = Decision(estimate.p_holds, estimate.p_fails, estimate.num_fails)
    is_given = not (math.isnan(given.p_holds) and math.isnan(given.p_fails))
    if is_given or math.isnan(estimate.p_value) or claim.holds == "within" or claim.margin:
        return given
    half = estimate.p_value / 2
    is_on_its_side = estimate.value > 0 if claim.holds == "above" else estimate.value < 0
    return Decision(half, 1 - half) if is_on_its_side else Decision(1 - half, half)


def _exact_verdict(claim: Claim, value: float) -> str:
    """Return the verdict on a value without sampling error; a directional claim at its margin is open, as is NaN."""
    if math.isnan(value):
        return INCONCLUSIVE
    if claim.holds == "within":
        return YES if abs(value) < claim.margin else NO
    above = value - claim.margin if claim.holds == "above" else claim.margin - value
    return YES if above > 0 else NO if above < 0 else INCONCLUSIVE


def _decided_before(tables: Tables, claim: Claim) -> tuple[str, int] | None:
    """Return the verdict of the last planned look that decided this claim as it is now defined, and the look's number."""
    digest = claim_digest(tables.manifest, claim)
    for number, look in reversed(list(enumerate(tables.looks, start=1))):
        for one in look.claims:
            if look.is_planned and one.digest == digest and one.verdict != INCONCLUSIVE:
                return one.verdict, number
    return None
