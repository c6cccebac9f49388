"""The estimator of the claim that a mix is closer to its task than the control is: a similarity measured once."""

from __future__ import annotations

import math

from midstudy.analysis.estimators import Estimate
from midstudy.analysis.tables import Tables
from midstudy.recipe.study import Claim


def closer(tables: Tables, claim: Claim) -> Estimate:
    """Return the proximity advantage of the claim's mix to the claim's task, at the weight of its arm in the comparison.

    The estimate is exact: there is one sample and no interval. NaN until the tokens are counted.
    """
    unit = "combined similarity"
    comparison = tables.manifest.comparison(claim.comparison)
    arms = tables.arms.iloc[list(comparison.arms)]
    for name, value in claim.arms.items():
        arms = arms[arms[name] == value]
    rows = tables.proximity
    if rows is not None and len(arms):
        at_weight = (rows["weight"] - float(arms["weight"].iloc[0])).abs() < 1e-9
        rows = rows[at_weight & (rows["mix"] == claim.arms["mix"]) & (rows["task"] == claim.arms["task"])]
    if rows is None or rows.empty:
        return Estimate(value=math.nan, low=math.nan, high=math.nan, p_value=math.nan, unit=unit, text="not measured")
    row = rows.iloc[0]
    text = f"similarity {row['control_combined']:.2f} → {row['mix_combined']:.2f} (measured once, no interval)"
    value = float(row["pa_combined"])
    return Estimate(value=value, low=math.nan, high=math.nan, p_value=math.nan, unit=unit, text=text, is_exact=True)
