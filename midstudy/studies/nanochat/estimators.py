"""Estimators of nanochat's claims: a share of items at a state, and what SFT remembers of its questions."""

from __future__ import annotations

from midstudy.analysis.decisions import Decision, for_all
from midstudy.analysis.effects import cells
from midstudy.analysis.estimators import Estimate, of_mean
from midstudy.analysis.intervals import mean_interval
from midstudy.analysis.share_intervals import wilson_interval
from midstudy.analysis.tables import Tables
from midstudy.recipe.factors import selects
from midstudy.recipe.study import Claim
from midstudy.studies.nanochat.abilities import FRESH, TRAINED_ON


def share_of_items(tables: Tables, claim: Claim) -> Estimate:
    """The share of items at the references of a comparison, against the margin: an exact binomial test for every seed.

    The claim, `above` or `below`, holds if it holds at each seed's state. The value is the mean over seeds, the interval
    reaches from the lowest to the highest end of the seeds' Wilson intervals. The test is over items: one seed has one.
    """
    entry = tables.manifest.comparison(claim.comparison)
    rows = tables.arms.iloc[list(entry.references)]
    rows = rows[[selects(claim.arms, dict(row)) for _, row in rows.iterrows()]]
    if rows.empty:
        raise ValueError(f"share_of_items: expected references with {dict(claim.arms)}, got none")
    if claim.holds == "within":
        raise ValueError("holds: expected 'above' or 'below' of a claim with the estimator share_of_items, got 'within'")
    shares = rows[claim.column].dropna()
    sizes = _num_items(tables, claim.column)
    if shares.empty or not sizes:
        return Estimate(unit="share of items")
    pairs = [(float(shares.loc[row]), sizes[row]) for row in shares.index]
    tests = for_all([_binomial(round(share * size), size, claim) for share, size in pairs])
    ends = [wilson_interval(share, size) for share, size in pairs]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    mean = float(shares.mean())
    return Estimate(
        value=mean,
        low=low,
        high=high,
        unit="share of items",
        text=f"{mean:.1%} of items ({low:.1%} to {high:.1%}, the intervals of {len(pairs)} seeds together)",
        p_holds=tests.p_holds,
        p_fails=tests.p_fails,
        num_fails=tests.num_fails,
    )


def remembered_questions(tables: Tables, claim: Claim) -> Estimate:
    """How much lower the loss on questions of SFT is than on fresh ones, in arms less in their references, in bits per byte.

    Each seed gives (fresh - trained on) of its arm minus that of its reference.
    """
    unit, entry = "bits per byte", tables.manifest.comparison(claim.comparison)
    chosen = [cell for cell in cells(tables, entry) if selects(claim.arms, cell.factors)]
    if len(chosen) != 1:
        raise ValueError(f"remembered_questions: expected one cell, got {len(chosen)}")
    gaps = []
    for rows in (chosen[0].arms, chosen[0].references):
        by_seed = rows.set_index(tables.manifest.seeds[0])
        gaps.append((by_seed[FRESH] - by_seed[TRAINED_ON]).dropna())
    return of_mean(mean_interval((gaps[0] - gaps[1]).dropna()), claim, unit)


def _binomial(right: int, size: int, claim: Claim) -> Decision:
    """Test `right` of `size` items against the margin, exactly (Clopper and Pearson, Biometrika 26, 1934)."""
    from scipy.special import bdtr, bdtrc

    at_most = float(bdtr(right, size, claim.margin))
    at_least = float(bdtrc(right - 1, size, claim.margin)) if right else 1.0
    return Decision(at_most, at_least) if claim.holds == "below" else Decision(at_least, at_most)


def _num_items(tables: Tables, column: str) -> dict[int, int]:
    """Return the number of items behind a column, by arm; nothing without results per item."""
    if tables.items is None:
        return {}
    of_column = tables.items[tables.items["column"] == column]
    return {int(row): int(size) for row, size in of_column.groupby("arm")["item"].nunique().items()}
