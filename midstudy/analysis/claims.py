"""Verdicts on a study's claims: yes, no or inconclusive.

A verdict is a test. Each claim has the p values of its decision (`decisions.Decision`); they are corrected by Holm's method
within the claim's family, and a claim is decided if its corrected p is below 0.05. A single seed decides nothing. Absolute
losses are not compared with the source's: they depend on model size, tokenizer and text.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from midstudy.analysis.decisions import ALPHA, Decision, decision_p, favours
from midstudy.analysis.estimators import Estimate, find_estimator
from midstudy.analysis.intervals import holm
from midstudy.analysis.tables import Tables
from midstudy.recipe.study import Claim

YES, NO, INCONCLUSIVE = "yes", "no", "inconclusive"


@dataclass(frozen=True)
class ClaimRow:
    """A claim, what its source reports, and what this study measured.

    `value` and its 95 % interval are in `unit`, and NaN if not measured. `p_value` is the p of the decision, in whichever
    direction: two-sided for directional claims, the smaller of the equivalence test and its opposite for `within`. `p_holm`
    is corrected over the tested claims of the same `family`; claims without a family form one. Both are NaN for a claim that
    is not tested, as one whose value is exact.
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


def judge(tables: Tables) -> pd.DataFrame:
    """Return one row per claim of the study (`ClaimRow`), in the study's order.

    A claim whose arms are not finished is inconclusive. So is one that its estimator rejects with a ValueError: the message
    is in `ours`, and the rest of the report can still be made.
    """
    claims = tables.manifest.claims
    found = estimates(tables)
    p_values = np.array([decision_p(_decision(*pair), holds=pair[0].holds) for pair in zip(claims, found, strict=True)])
    families = np.array([claim.family for claim in claims])
    corrected = np.full(len(claims), math.nan)
    for family in dict.fromkeys(families):
        corrected[families == family] = holm(p_values[families == family])
    rows = [
        asdict(_row(claim, estimate, p_value=float(p_value), p_holm=float(p_holm)))
        for claim, estimate, p_value, p_holm in zip(claims, found, p_values, corrected, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(ClaimRow.__dataclass_fields__))


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
    given = Decision(estimate.p_holds, estimate.p_fails)
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


def _row(claim: Claim, estimate: Estimate, *, p_value: float, p_holm: float) -> ClaimRow:
    return ClaimRow(
        text=claim.text,
        source=claim.source,
        cited=claim.cited,
        ours=estimate.text,
        verdict=verdict(claim, estimate, p_holm=p_holm),
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        unit=estimate.unit,
        family=claim.family,
        p_value=p_value,
        p_holm=p_holm,
    )
