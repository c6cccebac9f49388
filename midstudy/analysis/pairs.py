"""Paired comparison of two arms over the trunk seeds they share.

Arms share their randomness, so differences are taken within a pair of seeds. The unit of replication is the trunk seed:
SFT seeds are averaged within it first, because SFT runs from one trunk are not independent trainings.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from midstudy.analysis.arms import SEED_KEY
from midstudy.analysis.intervals import holm, mean_interval

#: Columns that ``summarise`` gives. Differences are reference − arm: positive means the arm's loss is lower.
SUMMARY_COLUMNS = (
    "n_trunk_seeds",
    "n_sft_seeds",
    "reference_loss",
    "loss",
    "difference_nats",
    "ci_low",
    "ci_high",
    "relative_improvement",
    "relative_ci_low",
    "relative_ci_high",
    "p_value",
    "note",
)


#: Columns that ``pair_by_trunk_seed`` gives.
SEED_COLUMNS = ("trunk_seed", "n_sft_seeds", "reference_loss", "loss", "difference_nats", "relative_improvement")


def pair_by_trunk_seed(rows: pd.DataFrame, reference: pd.DataFrame, *, loss_column: str) -> pd.DataFrame:
    """Losses of two arms for the (trunk seed, SFT seed) pairs finished in both, averaged over SFT seeds.

    Returns one row per trunk seed: trunk_seed, n_sft_seeds, reference_loss, loss, difference_nats (reference − arm) and
    relative_improvement (difference over reference). Empty where nothing is shared.
    """
    columns = [*SEED_KEY, loss_column]
    both = rows[columns].merge(reference[columns].rename(columns={loss_column: "reference_loss"}), on=SEED_KEY, how="inner")
    both = both.rename(columns={loss_column: "loss"}).dropna(subset=["loss", "reference_loss"])
    both = both.astype({"loss": float, "reference_loss": float})
    by_seed = both.groupby("trunk_seed", sort=True).agg(
        n_sft_seeds=("sft_seed", "nunique"), reference_loss=("reference_loss", "mean"), loss=("loss", "mean")
    )
    by_seed["difference_nats"] = by_seed["reference_loss"] - by_seed["loss"]
    by_seed["relative_improvement"] = by_seed["difference_nats"] / by_seed["reference_loss"]
    return by_seed.reset_index()[list(SEED_COLUMNS)]


def summarise(by_seed: pd.DataFrame) -> dict[str, object]:
    """Means over trunk seeds with 95 % t-intervals, for the output of ``pair_by_trunk_seed``.

    ``ci_low`` and ``ci_high`` belong to ``difference_nats``; ``p_value`` is the two-sided paired t-test's.
    ``relative_improvement`` is the mean of the trunk seeds' own ratios, so that it has an interval of its own.
    ``n_sft_seeds`` is the smallest number of SFT seeds behind a trunk seed's value.
    """
    difference = mean_interval(by_seed["difference_nats"])
    relative = mean_interval(by_seed["relative_improvement"])
    return {
        "n_trunk_seeds": difference.n,
        "n_sft_seeds": int(by_seed["n_sft_seeds"].min()) if difference.n else 0,
        "reference_loss": float(by_seed["reference_loss"].mean()),
        "loss": float(by_seed["loss"].mean()),
        "difference_nats": difference.mean,
        "ci_low": difference.low,
        "ci_high": difference.high,
        "relative_improvement": relative.mean,
        "relative_ci_low": relative.low,
        "relative_ci_high": relative.high,
        "p_value": difference.p_value,
        "note": difference.note,
    }


def comparison_table(records: Iterable[dict[str, object]], *, columns: list[str]) -> pd.DataFrame:
    """A table of comparisons with Holm-corrected p values, the family being all tested rows of this table.

    Adds ``p_holm`` and ``family_size`` (rows tested) to ``columns``; keeps the columns of an empty table.
    """
    table = pd.DataFrame(list(records), columns=columns)
    p_values = table["p_value"].astype(float)
    table["p_holm"] = holm(p_values.to_numpy())
    table["family_size"] = int(p_values.notna().sum())
    return table
