"""A study's claims beside what it measured: yes, no, or inconclusive by the interval.

A claim is decided where the 95 % interval lies on one side of its margin; one seed decides nothing. Levels are not compared:
another model size, tokenizer and text have other losses.
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

    ``value`` with its interval is in ``unit`` and NaN where it is not measured. ``p_holm`` is corrected over the claims of
    the same ``family``; claims without one are a family.
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
    """Every claim of the study, one row each (``ClaimRow``), in its order.

    A claim whose arms are not finished is inconclusive. So is one that its estimator refuses (ValueError): the refusal
    stands in ``ours``, so that the rest of the report can be made.
    """
    found = []
    for claim in tables.manifest.claims:
        try:
            estimate = find_estimator(claim.estimator)(tables, claim)
        except ValueError as error:
            estimate = Estimate(unit="", text=f"cannot be judged: {error}")
        found.append((claim, estimate))
    rows = pd.DataFrame(
        [asdict(_row(claim, estimate)) for claim, estimate in found], columns=list(ClaimRow.__dataclass_fields__)
    )
    for _, members in rows.groupby("family", sort=False):
        rows.loc[members.index, "p_holm"] = holm(members["p_value"].to_numpy(dtype=float))
    return rows


def verdict(claim: Claim, estimate: Estimate) -> str:
    """Whether the claim holds: by the interval, or by the value alone where that is exact."""
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
