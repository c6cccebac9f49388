"""Forgetting in fine-tuning: the loss on the general corpus before and after SFT, for every arm."""

from __future__ import annotations

import pandas as pd

from midstudy.analysis.effects import cell_factors
from midstudy.analysis.intervals import mean_interval
from midstudy.analysis.tables import Tables


def forgetting(tables: Tables) -> pd.DataFrame:
    """Return the general-corpus loss before and after SFT for every arm and the control, and its increase in nats.

    There is one row per cell (arms that differ only in seeds): the factors, num_seeds, general_loss_before,
    general_loss_after, forgetting_nats (after − before; positive if general ability was lost in SFT) with ci_low and ci_high
    over seeds, note. Cells without a finished pair of both losses have no row. Whether an arm ends *better* than the control
    is the effect on general_loss.
    """
    factors, (seed, *_) = cell_factors(tables), tables.manifest.seeds
    records = []
    for _, rows in tables.arms.groupby(factors, sort=False):
        measured = rows.dropna(subset=["general_loss", "general_loss_before"])
        if measured.empty:
            continue
        by_seed = measured.groupby(seed)[["general_loss_before", "general_loss"]].mean()
        increase = mean_interval(by_seed["general_loss"] - by_seed["general_loss_before"])
        records.append(
            {name: rows[name].iloc[0] for name in factors}
            | {
                "num_seeds": increase.n,
                "general_loss_before": by_seed["general_loss_before"].mean(),
                "general_loss_after": by_seed["general_loss"].mean(),
                "forgetting_nats": increase.mean,
                "ci_low": increase.low,
                "ci_high": increase.high,
                "note": increase.note,
            }
        )
    columns = ["num_seeds", "general_loss_before", "general_loss_after", "forgetting_nats", "ci_low", "ci_high", "note"]
    return pd.DataFrame(records, columns=[*factors, *columns])
