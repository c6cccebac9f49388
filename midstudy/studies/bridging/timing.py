"""The estimator of the claim that timing matters more than share: a contrast of arms crossed over starts and shares."""

from __future__ import annotations

from midstudy.analysis.effects import Cell
from midstudy.analysis.estimators import Estimate, common_seeds, of_mean, selected_cells, unit_of_effect
from midstudy.analysis.intervals import mean_interval
from midstudy.analysis.tables import Tables
from midstudy.recipe.study import Claim


def timing_over_share(tables: Tables, claim: Claim) -> Estimate:
    """Return how much more of the gain depends on the start than on the share.

    For every seed: [gain at the earliest start − gain at the latest start, both at the middle share] − [gain at the largest
    share − gain at the smallest share, both at the latest start]. The estimate is the mean over seeds with the two-sided
    paired t-test. The gain at the latest start is where the paper's ablation of shares lies. Option scale: "relative"
    (default) or "difference".

    Raises:
        ValueError: the claim does not select one arm for each of those starts and shares, or the number of shares is even,
            so that none is in the middle.
    """
    cells = selected_cells(tables, tables.manifest.comparison(claim.comparison), claim.arms)
    starts, shares = (sorted({float(cell.factors[name]) for cell in cells}) for name in ("start_step", "weight"))
    if len(starts) < 2 or len(shares) < 3 or len(shares) % 2 == 0:
        raise ValueError(
            f"arms: expected two or more starts and an odd number of shares from three, got {len(starts)} and {len(shares)}"
        )
    first, last = starts[0], starts[-1]
    smallest, middle, largest = shares[0], shares[len(shares) // 2], shares[-1]
    corners = ((first, middle), (last, middle), (last, largest), (last, smallest))
    gains = common_seeds(tables, [_at(cells, *corner) for corner in corners], claim)
    contrasts = [(early - late) - (large - small) for early, late, large, small in gains]
    return of_mean(mean_interval(contrasts), claim, unit_of_effect(tables, claim))


def _at(cells: list[Cell], start_step: float, weight: float) -> Cell:
    found = [
        cell for cell in cells if (float(cell.factors["start_step"]), float(cell.factors["weight"])) == (start_step, weight)
    ]
    if len(found) != 1:
        raise ValueError(f"arms: expected one arm at start step {start_step:g} and share {weight:g}, got {len(found)}")
    return found[0]
