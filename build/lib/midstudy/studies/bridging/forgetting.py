"""What fine-tuning costs in general ability: the general corpus's loss before and after it, of every arm."""

from __future__ import annotations

import pandas as pd

from midstudy.analysis.effects import cell_factors
from midstudy.analysis.intervals import mean_interval
from midstudy.analysis.tables import Tables


def forgetting(tables: Tables) -> pd.DataFrame:
    """General-corpus loss before and after SFT for every arm and the control, with its rise in nats.

    A row per arm, seeds apart: the factors, num_seeds, general_loss_before, general_loss_after, forgetting_nats (after −
    before, positive: general ability was lost in SFT) with ci_low and ci_high over seeds, note. Whether an arm ends *better*
    than the control is the effect on general_loss. Arms without a finished pair of both losses have no row.
    """
    factors, (seed, *_) = cell_factors(tables), tables.manifest.seeds
    records = []
    for _, rows in tables.arms.groupby(factors, sort=False):
        measured = rows.dropna(subset=["general_loss", "general_loss_before"])
        if measured.empty:
            continue
        by_seed = measured.groupby(seed)[["general_loss_before", "general_loss"]].mean()
        rise = mean_interval(by_seed["general_loss"] - by_seed["general_loss_before"])
        records.append(
            {name: rows[name].iloc[0] for name in factors}
            | {
                "num_seeds": rise.n,
                "general_loss_before": by_seed["general_loss_before"].mean(),
                "general_loss_after": by_seed["general_loss"].mean(),
                "forgetting_nats": rise.mean,
                "ci_low": rise.low,
                "ci_high": rise.high,
                "note": rise.note,
            }
        )
    columns = ["num_seeds", "general_loss_before", "general_loss_after", "forgetting_nats", "ci_low", "ci_high", "note"]
    return pd.DataFrame(records, columns=[*factors, *columns])
