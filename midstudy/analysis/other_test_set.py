"""Effects for another test set: the interval over seeds and items of every cell of a comparison, beside the one over seeds.

The rows of the data sets carry no source or template, so an item is a cluster of its own; alike items make the interval too
narrow.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from midstudy.analysis.effects import Cell, cell_factors, cells, effects
from midstudy.analysis.other_items import CrossedInterval, crossed_interval
from midstudy.analysis.pairs import seed_values
from midstudy.analysis.shares import SHARES
from midstudy.recipe.manifest import ComparisonEntry

if TYPE_CHECKING:
    from midstudy.analysis.tables import Tables

COLUMNS = (
    "num_seeds",
    "num_items",
    "difference",
    "ci_low",
    "ci_high",
    "items_ci_low",
    "items_ci_high",
    "seeds_error",
    "items_error",
)
_NUMBER = "number of items"
"""Denominator of metrics that are means over items."""

_SUMS = {
    "loss_nats": ("nats", "target_tokens", 1.0),
    "bits_per_byte": ("text_nats", "bytes", math.log(2)),
    **{metric: (column, _NUMBER, -1.0) for metric, column in SHARES.items()},
}
"""Metrics that are a ratio of sums over items: numerator, denominator, and what the ratio is divided by, which is negative
where more is better."""
_RANDOM_SEED = 2007


def other_test_set(tables: Tables, comparison: ComparisonEntry, column: str) -> pd.DataFrame:
    """Return the effects of a comparison with an interval that covers other seeds and other items of the test set.

    One row per cell with a seed whose items are known of the arm and of its reference: the factors except seeds, num_seeds
    and num_items, difference (in the column's unit, positive is better), ci_low and ci_high (95 %, over seeds alone, as
    `effects` returns them), items_ci_low and items_ci_high (95 %, over seeds and items: `other_items.crossed_interval`),
    and the standard errors from seeds alone and from items alone. Items are those common to all these seeds; a seed's inner
    seeds are added up. Arms with a value that is not finite are left out. Empty if no items are kept, or the metric is
    neither a ratio of sums over items nor a share of them.

    Raises:
        ValueError: an item has other target tokens in the arm than in its reference.
    """
    names, metric = cell_factors(tables), tables.manifest.columns[column].metric
    rows = []
    if tables.items is not None and metric in _SUMS and (above := _SUMS[metric][0]) in tables.items:
        plain = {tuple(row[name] for name in names): row for _, row in effects(tables, comparison, column).table.iterrows()}
        of_column = tables.items[tables.items["column"] == column]
        kept = {row: part.set_index("item") for row, part in of_column.groupby("arm") if np.isfinite(part[above]).all()}
        for cell in cells(tables, comparison):
            row, found = plain.get(tuple(cell.factors.values())), _interval(tables, cell, kept, metric)
            if row is not None and found is not None:
                intervals = (row["ci_low"], row["ci_high"], found.low, found.high)
                values = (found.num_seeds, found.num_items, found.value, *intervals, found.seeds_error, found.items_error)
                rows.append(dict(cell.factors) | dict(zip(COLUMNS, values, strict=True)))
    return pd.DataFrame(rows, columns=[*names, *COLUMNS])


def _interval(tables: Tables, cell: Cell, kept: dict[int, pd.DataFrame], metric: str) -> CrossedInterval | None:
    above, below, divisor = _SUMS[metric]
    seeds = tables.manifest.seeds
    references = dict(zip(seed_values(cell.references, seeds), cell.reference_rows, strict=True))
    by_seed: dict[object, list[pd.DataFrame]] = {}
    for run, row in zip(seed_values(cell.arms, seeds), cell.arm_rows, strict=True):
        reference = references.get(run)
        if row in kept and reference in kept:
            by_seed.setdefault(run[:1], []).append(_difference(kept[row], kept[reference], above, below, f"{cell}, {run}"))
    runs = [pair for pairs in by_seed.values() for pair in pairs]
    if not runs:
        return None
    items = sorted(set.intersection(*(set(pair.index) for pair in runs)))
    if not items:
        return None
    differences, totals = (
        np.array([sum(pair.loc[items, name].to_numpy(dtype=float) for pair in pairs) for pairs in by_seed.values()])
        for name in ("difference", "total")
    )
    return crossed_interval(differences / divisor, totals, items, random_seed=_RANDOM_SEED)


def _difference(arm: pd.DataFrame, reference: pd.DataFrame, above: str, below: str, label: str) -> pd.DataFrame:
    """Return the reference's sum minus the arm's of every common item, and the tokens or bytes of both (of shares 1)."""
    common = arm.index.intersection(reference.index)
    if below == _NUMBER:
        arm, reference = (frame.assign(**{_NUMBER: 1.0}) for frame in (arm, reference))
    totals, others = arm.loc[common, below], reference.loc[common, below]
    if not totals.equals(others):
        item = totals.index[(totals != others).to_numpy()][0]
        raise ValueError(f"{label}, item {item}: expected {others[item]} {below} as in its reference, got {totals[item]}")
    return pd.DataFrame({"difference": reference.loc[common, above] - arm.loc[common, above], "total": totals})
