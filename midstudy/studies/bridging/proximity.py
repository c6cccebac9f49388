"""(mix, task) pairs: the effects of the main comparison joined with proximity advantages."""

from __future__ import annotations

import pandas as pd

from midstudy.analysis.correlations import with_proximity
from midstudy.analysis.effects import effects
from midstudy.analysis.tables import Tables
from midstudy.studies.bridging.grid import MATCHED


def proximity_pairs(tables: Tables) -> pd.DataFrame | None:
    """Return the effects of the comparison "main" on sft_loss with proximity advantages, one row per finished cell.

    Adds pa_combined, pa_cosine, pa_jaccard, pa_js, pair ('code → pycode') and matched to the columns of `Effects.table`.
    None until the tokens of every data set are counted.

    Raises:
        ValueError: the mix of an arm, named in the message, has no proximity advantage.
    """
    if tables.proximity is None:
        return None
    table = effects(tables, tables.manifest.comparison("main"), "sft_loss").table
    pairs = with_proximity(table, tables.proximity, factors=("mix", "weight"), task="task")
    return pairs.assign(pair=pairs["mix"].astype(str) + " → " + pairs["task"].astype(str), matched=is_matched(pairs))


def is_matched(table: pd.DataFrame) -> pd.Series:
    """Return for each row whether its mix was made for its task."""
    matched = [MATCHED.get(mix) == task for mix, task in zip(table["mix"], table["task"], strict=True)]
    return pd.Series(matched, index=table.index, dtype=bool)
