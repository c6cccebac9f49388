"""Forgetting in fine-tuning: the loss on the general corpus before and after SFT, of every arm and beside the control."""

from __future__ import annotations

import pandas as pd

from midstudy.analysis.effects import cell_factors
from midstudy.analysis.intervals import mean_interval
from midstudy.analysis.tables import Tables
from midstudy.studies.bridging.controls import with_controls
from midstudy.studies.bridging.scale import CONTROL

COLUMNS = (
    "num_seeds",
    "general_loss_before",
    "general_loss_after",
    "forgetting_nats",
    "ci_low",
    "ci_high",
    "note",
    "num_pairs",
    "beyond_control_nats",
    "beyond_ci_low",
    "beyond_ci_high",
    "beyond_p_value",
)


def forgetting(tables: Tables) -> pd.DataFrame:
    """Return the general-corpus loss before and after SFT for every arm and the control, and its increase in nats.

    There is one row per cell (arms that differ only in seeds): the factors, num_seeds, general_loss_before,
    general_loss_after, forgetting_nats (after − before; positive if general ability was lost in SFT) with ci_low and ci_high
    over seeds, note; then over the num_pairs seeds that are finished in the arm and in its control, beyond_control_nats (the
    arm's forgetting minus the control's: negative if the arm forgets less) with its 95 % interval and the p value of the
    paired t-test, NaN for the control. Cells without a finished pair of both losses have no row. Whether an arm ends
    *better* than the control is the effect on general_loss.
    """
    seed = tables.manifest.seeds[0]
    arms = tables.arms.assign(forgetting_nats=tables.arms["general_loss"] - tables.arms["general_loss_before"])
    records = []
    for cell in with_controls(tables, arms):
        measured = cell.arms.dropna(subset=["forgetting_nats"])
        if measured.empty:
            continue
        by_seed = measured.groupby(seed)[["general_loss_before", "general_loss", "forgetting_nats"]].mean()
        increase = mean_interval(by_seed["forgetting_nats"])
        paired = cell.paired("forgetting_nats")["difference"] if cell.factors["mix"] != CONTROL else ()
        beyond = mean_interval(-difference for difference in paired)
        means = (by_seed["general_loss_before"].mean(), by_seed["general_loss"].mean(), increase.mean)
        of_control = (beyond.n, beyond.mean, beyond.low, beyond.high, beyond.p_value)
        values = (increase.n, *means, increase.low, increase.high, increase.note, *of_control)
        records.append(cell.factors | dict(zip(COLUMNS, values, strict=True)))
    return pd.DataFrame(records, columns=[*cell_factors(tables), *COLUMNS])
