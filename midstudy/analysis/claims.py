"""Verdicts on a study's claims: yes, no or inconclusive.

A claim is decided if the 95 % interval lies on one side of its margin; a single seed decides nothing. Absolute losses are
not compared with the source's: they depend on model size, tokenizer and text.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import pandas as pd

from midstudy.analysis.estimators import Estimate, find_estimator
from midstudy.analysis.intervals import holm
from midstudy.analysis.tables import Tables
from midstudy.recipe.study import Claim

YES, NO, INCONCLUSIVE = "yes", "no", "inconclusive"


@dataclass(frozen=True)
class ClaimRow:
    """A claim, what its source reports, and what this study measured.

    `value` and its interval are in `unit`, and NaN if not measured. `p_holm` is corrected over the claims of the same
    `family`; claims without a family form one.
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
    judged = []
    for claim in tables.manifest.claims:
        try:
            estimate = find_estimator(claim.estimator)(tables, claim)
        except ValueError as error:
            estimate = Estimate(unit="", text=f"cannot be judged: {error}")
        judged.append((claim, estimate))
    rows = pd.DataFrame(
        [asdict(_row(claim, estimate)) for claim, estimate in judged], columns=list(ClaimRow.__dataclass_fields__)
    )
    for _, members in rows.groupby("family", sort=False):
        rows.loc[members.index, "p_holm"] = holm(members["p_value"].to_numpy(dtype=float))
    return rows


def verdict(claim: Claim, estimate: Estimate) -> str:
    """Decide the claim by the interval, or by the value alone if that is exact."""
    low, high = (estimate.value, estimate.value) if estimate.is_exact else (estimate.low, estimate.high)
    margin = claim.margin
    if claim.holds == "above":
        holds, fails = low > margin, high < margin
    elif claim.holds == "below":
        holds, fails = high < margin, low > margin
    else:
        holds, fails = low > -margin and high < margin, low > margin or high < -margin
    return YES if holds else NO if fails else INCONCLUSIVE


def _row(claim: Claim, estimate: Estimate) -> ClaimRow:
    return ClaimRow(
        text=claim.text,
        source=claim.source,
        cited=claim.cited,
        ours=estimate.text,
        verdict=verdict(claim, estimate),
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        unit=estimate.unit,
        family=claim.family,
        p_value=estimate.p_value,
        p_holm=float("nan"),
    )
