"""A table of training: two runs on three trunk seeds, with losses that are known at every step."""

from __future__ import annotations

import numpy as np
import pandas as pd

from midstudy.analysis.tables import Tables
from midstudy.analysis.training import BATCHES


def training_of(tables: Tables, *, role: str = "pretrain") -> pd.DataFrame:
    """Two runs on three trunk seeds over ten logged steps each of 100 tokens, and their general loss after the last one."""
    rows = []
    for mix, level in (("control", 4.0), ("code", 5.0)):
        for seed in (0, 1, 2):
            factors = dict.fromkeys(tables.manifest.factor_names) | {"mix": mix, "trunk_seed": seed}
            labels = {"stage": f"{mix}{seed}", "role": role, "model": "micro", **factors}
            batches = {"data": "", "split": BATCHES}
            rows += [
                {
                    **labels,
                    **batches,
                    "step": step,
                    "tokens": 100 * step,
                    "lr": 0.01,
                    "loss_nats": level + seed / 10 + 1 / step,
                }
                for step in range(10, 101, 10)
            ]
            of_corpus = {"data": "general", "split": "test", "step": 100, "tokens": np.nan, "lr": np.nan}
            rows.append({**labels, **of_corpus, "loss_nats": level - 0.5})
    return pd.DataFrame(rows)
