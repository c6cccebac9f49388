"""The table of shares: the accuracy of each evaluated state, with its interval and its change from the state before."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd

from midstudy.analysis.commonest import commonest_share
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
        "commonest",
    ),
    *("before", "change", "change_low", "change_high", "p_value"),
)


def shares_table(store: Store, manifest: Manifest, items: pd.DataFrame | None) -> pd.DataFrame | None:
    """Return one row per finished evaluation and metric that is a share; `None` if there is none.

    Columns: measure (the same number for rows of one evaluation and metric, which compare), evaluation (its stage), state
    (the label of the state), column (the first that shows it), metric, data, split, step, num_items, share with ci_low and
    ci_high (95 %, `wilson_interval`), commonest (`commonest_share`, of right answers; NaN of other metrics), before (the
    label of the last state that its training passed with the same evaluation, in whichever arm; empty if there is none),
    change since then, with change_low, change_high and p_value (`paired_change`, over the items of both; NaN without such a
    state). Of a state whose scores are not finite, all numbers are NaN.

    Args:
        items: as `items_table` returns it.
    """
    if items is None:
        return None
    kept = {key: part.set_index("item") for key, part in items.groupby(["arm", "column", "step"])}
    records = store.records({one for arm in manifest.arms for ids in arm.measures.values() for one in ids})
    asked = {one: json.dumps(record.recipe["evaluation"], sort_keys=True) for one, record in records.items()}
    found: dict[tuple[str, str, str], _Shown] = {}  # by state, evaluation recipe and metric
    for row, arm in enumerate(manifest.arms):
        for name, ids in arm.measures.items():
            metric = manifest.columns[name].metric
            for one in ids:
                part = kept.get((row, name, manifest.stages[one].step))
                if metric in SHARES and one in asked and part is not None:
                    found.setdefault((_state(manifest, one), asked[one], metric), _Shown(one, name, part[SHARES[metric]]))
    numbers: dict[tuple[str, str], int] = {}
    commonest: dict[str, float] = {}
    rows = []
    for (state, question, metric), shown in found.items():
        stage, values = manifest.stages[shown.evaluation], shown.values
        earlier = (found.get((one, question, metric)) for one in _states_before(manifest, state))
        share = float(values.mean(skipna=False))
        low, high = wilson_interval(share, len(values))
        if question not in commonest:
            commonest[question] = commonest_share(store.published_folder(shown.evaluation), json.loads(question))
        rows.append(
            {
                "measure": numbers.setdefault((question, metric), len(numbers)),
                "evaluation": shown.evaluation,
                "state": manifest.stages[state].label,
                "column": shown.column,
                "metric": metric,
                "data": stage.data,
                "split": stage.split,
                "step": stage.step or 0,
                "num_items": len(values),
                "share": share,
                "ci_low": low,
                "ci_high": high,
                "commonest": commonest[question] if SHARES[metric] == "right" else math.nan,
                **_change(manifest, next((one for one in earlier if one is not None), None), values),
            }
        )
    return pd.DataFrame(rows, columns=[*COLUMNS]) if rows else None


class _Shown(NamedTuple):
    """An evaluation of a state, the first column that shows it, and the value of every item."""

    evaluation: str
    column: str
    values: pd.Series


def _state(manifest: Manifest, evaluation: str) -> str:
    return next(one for one in manifest.stages[evaluation].parents if manifest.stages[one].kind == "state")


def _states_before(manifest: Manifest, state: str) -> Iterator[str]:
    """Yield the states that training passed before this one, the nearest first."""
    parents = manifest.stages[state].parents
    while before := next((one for one in parents if one in manifest.stages and manifest.stages[one].kind == "state"), None):
        yield before
        parents = manifest.stages[before].parents


def _change(manifest: Manifest, before: _Shown | None, values: pd.Series) -> dict[str, Any]:
    names = ("change", "change_low", "change_high", "p_value")
    if before is None:
        return {"before": "", **dict.fromkeys(names, math.nan)}
    label, first = manifest.stages[_state(manifest, before.evaluation)].label, before.values
    common = values.index.intersection(first.index)
    if not len(common) or first.loc[common].isna().any() or values.loc[common].isna().any():
        return {"before": label, **dict.fromkeys(names, math.nan)}
    found = paired_change(first.loc[common], values.loc[common])
    return {"before": label, **dict(zip(names, (found.change, found.low, found.high, found.p_value), strict=True))}
