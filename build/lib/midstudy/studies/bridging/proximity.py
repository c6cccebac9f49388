"""Pairs of a mix and a task: the main comparison's effects beside their proximity advantages, and which are matched."""

from __future__ import annotations

import pandas as pd

from midstudy.analysis.correlations import with_proximity
from midstudy.analysis.effects import effects
from midstudy.analysis.tables import Tables
from midstudy.studies.bridging.grid import MATCHED


def proximity_pairs(tables: Tables) -> pd.DataFrame | None:
    """The effects on sft_loss of the comparison "main", a row per finished cell, with proximity advantages; None while the
    tokens of a data set are not counted.

    Adds pa_combined, pa_cosine, pa_jaccard, pa_js, pair ('code → pycode') and matched to the columns of ``Effects.table``.

    Raises ValueError naming an arm whose mix has no proximity advantage.
    """
    if tables.proximity is None:
        return None
    table = effects(tables, tables.manifest.comparison("main"), "sft_loss").table
    pairs = with_proximity(table, tables.proximity, factors=("mix", "weight"), task="task")
    return pairs.assign(pair=pairs["mix"].astype(str) + " → " + pairs["task"].astype(str), matched=is_matched(pairs))


def is_matched(table: pd.DataFrame) -> pd.Series:
    """Whether each row's mix was made for its task."""
    matched = [MATCHED.get(mix) == task for mix, task in zip(table["mix"], table["task"], strict=True)]
    return pd.Series(matched, index=table.index, dtype=bool)
