"""Estimators of claims about shares of right answers, tested over the items of one arm: for studies with one seed.

Named in claims as `midstudy.analysis.item_tests:share` and `midstudy.analysis.item_tests:share_change`. The tests are about
the weights that were trained: another seed of training varies beside the items, and `scope` says so.
"""

from __future__ import annotations

import pandas as pd

from midstudy.analysis.decisions import Decision
from midstudy.analysis.effects import Cell, cells
from midstudy.analysis.estimators import Estimate
from midstudy.analysis.share_intervals import paired_change, wilson_interval
from midstudy.analysis.shares import SHARES
from midstudy.analysis.tables import Tables
from midstudy.recipe.factors import selects
from midstudy.recipe.study import Claim

SCOPE = "for these weights: the test is over items, not over seeds of training"


def share(tables: Tables, claim: Claim) -> Estimate:
    """The share of right items in `claim.column` at the selected arm, against the margin, such as chance.

    The interval is Wilson's; the test is the exact binomial one. Unfinished arms give NaN.

    Raises:
        ValueError: the claim selects no arm or several, holds `within`, or its column is not a share of items.
    """
    cell = _cell(tables, claim)
    right = _items(tables, cell.arm_rows[0], claim.column)
    if right is None:
        return Estimate(unit="share of items")
    value, size = float(right.mean()), len(right)
    low, high = wilson_interval(value, size)
    return Estimate(
        value=value,
        low=low,
        high=high,
        **_p_values(_binomial(value * size, size, claim.margin), claim),
        unit="share of items",
        text=f"{100 * value:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f} %) of {size} items",
        scope=SCOPE,
    )


def share_change(tables: Tables, claim: Claim) -> Estimate:
    """The share of right items in `claim.column` at the selected arm minus that of its reference, on the same items.

    With the option `other`, a column, minus that column's share at the same arm: the same state asked in another way. The
    interval is that of `paired_change` (Agresti and Min), and the test the one that this interval inverts, so that the
    verdict and the interval agree at any margin. Unfinished arms give NaN.

    Raises:
        ValueError: as `share`, or the two have no item in common.
    """
    cell = _cell(tables, claim)
    other = claim.options.get("other")
    row = cell.reference_rows[0] if other is None else cell.arm_rows[0]
    second = _items(tables, cell.arm_rows[0], claim.column)
    first = _items(tables, row, claim.column if other is None else str(other))
    if first is None or second is None:
        return Estimate(unit="share of items")
    common = first.index.intersection(second.index)
    found = paired_change(first.loc[common], second.loc[common])
    return Estimate(
        value=found.change,
        low=found.low,
        high=found.high,
        **_p_values(_normal((found.centre - claim.margin) / found.error), claim),
        unit="difference of shares",
        text=f"{100 * found.change:+.1f} points (95 % interval {100 * found.low:+.1f} to {100 * found.high:+.1f}) on "
        f"{found.num_items} items, {found.num_better} better and {found.num_worse} worse".replace("-", "\N{MINUS SIGN}"),
        scope=SCOPE,
    )


def _cell(tables: Tables, claim: Claim) -> Cell:
    if claim.holds == "within":
        raise ValueError(f"holds: expected above or below of a claim with the estimator {claim.estimator}, got within")
    comparison = tables.manifest.comparison(claim.comparison)
    found = [cell for cell in cells(tables, comparison) if selects(claim.arms, cell.factors)]
    num_arms = sum(len(cell.arm_rows) for cell in found)
    if num_arms != 1:
        raise ValueError(f"arms: expected one arm of {comparison.name} with {dict(claim.arms)}, got {num_arms}")
    return found[0]


def _items(tables: Tables, row: int, column: str) -> pd.Series | None:
    """Return 0 to 1 for every item of a column at an arm; None while it is not measured."""
    known = tables.manifest.columns
    if column not in known or known[column].metric not in SHARES:
        shares = ", ".join(name for name, one in known.items() if one.metric in SHARES) or "none"
        raise ValueError(f"column: expected a share of items ({shares}), got {column!r}")
    if tables.items is None:
        return None
    part = tables.items[(tables.items["arm"] == row) & (tables.items["column"] == column)]
    values = part.set_index("item")[SHARES[known[column].metric]] if len(part) else None
    return None if values is None or values.isna().any() else values.astype(float)


def _p_values(above_below: tuple[float, float], claim: Claim) -> dict[str, float]:
    above, below = above_below
    decision = Decision(above, below) if claim.holds == "above" else Decision(below, above)
    return {"p_holds": decision.p_holds, "p_fails": decision.p_fails}


def _binomial(num_right: float, size: int, margin: float) -> tuple[float, float]:
    """Return the probabilities of at least and of at most so many right ones if each is right with probability `margin`."""
    from scipy.special import bdtr, bdtrc

    count = round(num_right)
    return float(bdtrc(count - 1, size, margin)) if count else 1.0, float(bdtr(count, size, margin))


def _normal(z: float) -> tuple[float, float]:
    from scipy.special import ndtr

    return float(ndtr(-z)), float(ndtr(z))
