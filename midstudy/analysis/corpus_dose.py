"""Dose of corpora within the training on corpora: what the table's `dose:NAME` is without the rates of fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd


def corpus_dose(arms: pd.DataFrame, corpora: Sequence[str]) -> pd.Series:
    """Return the summed dose of some corpora in each arm: Σ learning rate × share over Σ learning rate on corpora.

    Values are in [0, 1]. The table's doses have the learning rates on tasks in their denominator, which may be chosen for
    each arm: arms that match in pretraining can differ there.
    """
    tasks = [column.replace("items:", "dose:") for column in arms.columns if column.startswith("items:")]
    on_corpora = 1 - arms[[column for column in tasks if column in arms.columns]].sum(axis=1)
    return arms[[f"dose:{name}" for name in corpora]].sum(axis=1) / on_corpora
