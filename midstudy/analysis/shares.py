"""The table of shares: the accuracy of each evaluated state, with its interval and its change from the state before."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd

from midstudy.analysis.share_intervals import paired_change, wilson_interval
from midstudy.recipe.manifest import Manifest
from midstudy.store.store import Store

SHARES = {"accuracy": "right", "exact_match": "right", "well_formed": "well_formed"}
"""Metrics that are a mean over items of values from 0 to 1, and the column of the items that holds the values."""

COLUMNS = (
    *(
        "measure",
        "evaluation",
        "state",
        "column",
        "metric",
        "data",
        "split",
        "step",
        "num_items",
        "share",
        "ci_low",
        "ci_high",
    ),
    *("before", "change", "change_low", "change_high", "p_value"),
)


def shares_table(store: Store, manifest: Manifest, items: pd.DataFrame | None) -> pd.DataFrame | None:
    """Return one row per finished evaluation and metric that is a share; `None` if there is none.

    Columns: measure (the same number for rows of one evaluation and metric, which compare), evaluation (its stage), state
    (the label of the state), column (the first that shows it), metric, data, split, step, num_items, share with ci_low and
    ci_high (95 %, `wilson_interval`), before (the label of the last state before it in its arm with the same evaluation;
    empty if there is none), change since then, with change_low, change_high and p_value (`paired_change`, over the items of
    both; NaN without such a state). Of a state whose scores are not finite, all numbers are NaN.

    Args:
        items: as `items_table` returns it.
    """
    if items is None:
        return None
    kept = {key: part.set_index("item") for key, part in items.groupby(["arm", "column", "step"])}
    records = store.records({one for arm in manifest.arms for ids in arm.measures.values() for one in ids})
    asked = {one: json.dumps(record.recipe["evaluation"], sort_keys=True) for one, record in records.items()}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    numbers: dict[tuple[str, str], int] = {}
    for row, arm in enumerate(manifest.arms):
        measured = [
            (manifest.stages[one].step or 0, name, one)
            for name, ids in arm.measures.items()
            for one in ids
            if manifest.columns[name].metric in SHARES and one in asked
        ]
        earlier: dict[tuple[str, str], tuple[str, pd.Series, int]] = {}
        for step, name, one in sorted(measured, key=lambda found: found[0]):
            metric, stage = manifest.columns[name].metric, manifest.stages[one]
            part = kept.get((row, name, step))
            before = earlier.get((asked[one], metric))
            if part is None or (before is not None and before[2] == step):
                continue  # not kept, or shown by another column
            state = next(parent for parent in stage.parents if manifest.stages[parent].kind == "state")
            label, values = manifest.stages[state].label, part[SHARES[metric]]
            earlier[asked[one], metric] = (label, values, step)
            share = float(values.mean(skipna=False))
            low, high = wilson_interval(share, len(values))
            rows.setdefault(
                (one, metric),
                {
                    "measure": numbers.setdefault((asked[one], metric), len(numbers)),
                    "evaluation": one,
                    "state": label,
                    "column": name,
                    "metric": metric,
                    "data": stage.data,
                    "split": stage.split,
                    "step": step,
                    "num_items": len(values),
                    "share": share,
                    "ci_low": low,
                    "ci_high": high,
                    **_change(before, values),
                },
            )
    return pd.DataFrame([*rows.values()], columns=[*COLUMNS]) if rows else None


def _change(before: tuple[str, pd.Series, int] | None, values: pd.Series) -> dict[str, Any]:
    names = ("change", "change_low", "change_high", "p_value")
    if before is None:
        return {"before": "", **dict.fromkeys(names, math.nan)}
    label, first, _ = before
    common = values.index.intersection(first.index)
    if not len(common) or first.loc[common].isna().any() or values.loc[common].isna().any():
        return {"before": label, **dict.fromkeys(names, math.nan)}
    found = paired_change(first.loc[common], values.loc[common])
    return {"before": label, **dict(zip(names, (found.change, found.low, found.high, found.p_value), strict=True))}
