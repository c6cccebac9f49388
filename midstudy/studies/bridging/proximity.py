"""(mix, task) pairs: the effects of the main comparison joined with proximity advantages."""

from __future__ import annotations

import pandas as pd

from midstudy.analysis.mix_task import mix_task_pairs
from midstudy.analysis.tables import Tables
from midstudy.studies.bridging.grid import MATCHED


def proximity_pairs(tables: Tables) -> pd.DataFrame | None:
    """Return the pairs of the comparison "main" with their effects on sft_loss, one row per planned cell.

    Adds matched (True if the mix was made for the task) to the columns of `mix_task_pairs`. None until the tokens of every
    data set are counted.

    Raises:
        ValueError: the mix of an arm, named in the message, has no proximity advantage.
    """
    pairs = mix_task_pairs(tables, tables.manifest.comparison("main"), "sft_loss", task="task")
    if pairs is None:
        return None
    matched = [MATCHED.get(mix) == task for mix, task in zip(pairs["mix"], pairs["task"], strict=True)]
    return pairs.assign(matched=matched)
