"""The estimator of "the mix lies closer to its task than the control does": a similarity measured once."""

from __future__ import annotations

import math

from midstudy.analysis.estimators import Estimate
from midstudy.analysis.tables import Tables
from midstudy.recipe.study import Claim


def closer(tables: Tables, claim: Claim) -> Estimate:
    """Proximity advantage of the mix to the task that the claim selects, at the weight of its arm in the comparison.

    Exact: there is one sample, so no interval. NaN until the tokens are counted.
    """
    unit = "combined similarity"
    comparison = tables.manifest.comparison(claim.comparison)
    arms = tables.arms.iloc[list(comparison.arms)]
    for name, value in claim.arms.items():
        arms = arms[arms[name] == value]
    found = tables.proximity
    if found is not None and len(arms):
        at_weight = (found["weight"] - float(arms["weight"].iloc[0])).abs() < 1e-9
        found = found[at_weight & (found["mix"] == claim.arms["mix"]) & (found["task"] == claim.arms["task"])]
    if found is None or found.empty:
        return Estimate(value=math.nan, low=math.nan, high=math.nan, p_value=math.nan, unit=unit, text="not measured")
    row = found.iloc[0]
    text = f"similarity {row['control_combined']:.2f} → {row['mix_combined']:.2f} (measured once, no interval)"
    value = float(row["pa_combined"])
    return Estimate(value=value, low=math.nan, high=math.nan, p_value=math.nan, unit=unit, text=text, is_exact=True)
