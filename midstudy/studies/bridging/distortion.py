"""Distortion in fine-tuning against forgetting: by arm, and their rank correlation with an interval over trunk seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from midstudy.analysis.crossed import MIN_PAIRS
from midstudy.analysis.effects import cell_factors
from midstudy.analysis.intervals import mean_interval
from midstudy.analysis.tables import Tables

COLUMNS = {
    "sft_layer_distortion": "norm of the change of the last MLP's output weights",
    "sft_last_layer_cka": "linear CKA of the last layer",
    "sft_mean_diagonal_cka": "linear CKA, mean over layers",
}
"""What fine-tuning changes in a model, by column of the pair `sft`."""


def forgotten(tables: Tables) -> pd.DataFrame:
    """Return one row per cell and trunk seed: the factors except the SFT seed, the `COLUMNS`, forgetting_nats.

    Forgetting is the increase of general loss in SFT. Values are averaged over SFT seeds; arms that lack a value are left
    out. Empty if the study does not compare the states before and after SFT.
    """
    factors, (seed, *_) = cell_factors(tables), tables.manifest.seeds
    needed = [*COLUMNS, "general_loss", "general_loss_before"]
    if not {*needed} <= {*tables.arms.columns}:
        return pd.DataFrame(columns=[*factors, seed, *COLUMNS, "forgetting_nats"])
    arms = tables.arms.dropna(subset=needed)
    arms = arms.assign(forgetting_nats=arms["general_loss"] - arms["general_loss_before"])
    return arms.groupby([*factors, seed], sort=False)[[*COLUMNS, "forgetting_nats"]].mean().reset_index()


def rank_correlations(points: pd.DataFrame, *, seed: str) -> pd.DataFrame:
    """Return Spearman's rho of each column of `COLUMNS` with forgetting over the arms of a trunk seed.

    Trunk seeds replicate the arms, so that rho is computed within each and averaged. One row per column: column, num_arms
    (the most of a seed), num_seeds, rho (mean), ci_low and ci_high (95 % t-interval over seeds, within ±1), note. NaN if no
    seed has four arms that vary.

    Args:
        points: as returned by `forgotten`, of one size.
    """
    records = []
    for column in COLUMNS:
        rhos = []
        for _, arms in points.groupby(seed):
            varies = arms[column].nunique() > 1 and arms["forgetting_nats"].nunique() > 1
            if varies and len(arms) >= MIN_PAIRS:
                rhos.append(float(stats.spearmanr(arms[column], arms["forgetting_nats"]).statistic))
        mean = mean_interval(rhos)
        note = mean.note if rhos else f"expected {MIN_PAIRS} arms of one trunk seed that vary"
        records.append(
            {
                "column": column,
                "num_arms": int(points.groupby(seed).size().max()) if len(points) else 0,
                "num_seeds": mean.n,
                "rho": mean.mean,
                "ci_low": float(np.clip(mean.low, -1, 1)),
                "ci_high": float(np.clip(mean.high, -1, 1)),
                "note": note,
            }
        )
    return pd.DataFrame(records)
