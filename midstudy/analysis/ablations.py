"""Mid versus continued pretraining, when the specialist data start, how heavy they weigh, and what is forgotten.

Arms of an ablation differ in specialist tokens as well as in what the ablation is named after (an early start also
means more specialist tokens), so every table here shows them.
"""

from __future__ import annotations

import pandas as pd

from midstudy.analysis.arms import ARM_KEY, CONTROL, SEED_KEY, in_group, require_arms
from midstudy.analysis.effects import Effects, paired_effects
from midstudy.analysis.intervals import mean_interval
from midstudy.analysis.pairs import SUMMARY_COLUMNS, comparison_table, pair_by_trunk_seed, summarise

_MID_COLUMNS = [
    "size",
    "mix",
    "task",
    "loss_column",
    "mid_weight",
    "mid_start_step",
    "mid_specialist_tokens",
    "continued_start_step",
    "continued_specialist_tokens",
    "control_loss",
    *SUMMARY_COLUMNS,
]


def mid_versus_continued(arms: pd.DataFrame) -> pd.DataFrame:
    """Compare each mix's main arm with its continued-pretraining arm (weight 1), on task loss and general loss.

    A row per (size, mix, task, loss_column) with loss_column sft_loss or general_loss (both after SFT, test, nats per
    token): control_loss, mid_loss and continued_loss over the seeds finished in the latter two, difference_nats
    (continued − mid, positive: the mixture is better) with interval, relative_improvement (over the continued loss)
    with interval, p_value, p_holm, n_trunk_seeds, n_sft_seeds, note, and weight, start steps and specialist tokens of
    both. ``control_loss`` is NaN until the control is finished for those seeds. The arms may differ in start step: the
    paper starts them at different points, too (arXiv 2510.14865).

    Raises ValueError where a continued arm has no main arm of its mix to be compared with.
    """
    require_arms(arms)
    main, continued = in_group(arms, "main"), in_group(arms, "continued")
    records = []
    for (size, mix, _, _, task), rows in continued[continued["mix"] != CONTROL].groupby(ARM_KEY, sort=False):
        cell = main[(main["size"] == size) & (main["task"] == task)]
        mid = cell[cell["mix"] == mix]
        if mid.empty:
            raise ValueError(
                f"continued pretraining on '{mix}' ({size} → {task}) has no arm of that mix in group main to be "
                "compared with; add it to the study"
            )
        for loss_column in ("sft_loss", "general_loss"):
            by_seed = pair_by_trunk_seed(mid, rows, loss_column=loss_column)
            used = mid.merge(rows.loc[rows[loss_column].notna(), SEED_KEY], on=SEED_KEY)
            control = pair_by_trunk_seed(used, cell[cell["mix"] == CONTROL], loss_column=loss_column)
            identity = {
                "size": size,
                "mix": mix,
                "task": task,
                "loss_column": loss_column,
                "mid_weight": mid["weight"].iloc[0],
                "mid_start_step": mid["start_step"].iloc[0],
                "mid_specialist_tokens": mid["specialist_tokens"].mean(),
                "continued_start_step": rows["start_step"].iloc[0],
                "continued_specialist_tokens": rows["specialist_tokens"].mean(),
                "control_loss": control["reference_loss"].mean(),
            }
            records.append(identity | summarise(by_seed))
    table = comparison_table(records, columns=_MID_COLUMNS)
    return table.rename(columns={"loss": "mid_loss", "reference_loss": "continued_loss"})


def timing_curve(arms: pd.DataFrame, *, loss_column: str = "sft_loss") -> Effects:
    """Effects of the arms in group timing, ordered by start step; ``by_trunk_seed`` has the points of each trunk."""
    return _curve(arms, group="timing", order="start_step", loss_column=loss_column)


def weight_curve(arms: pd.DataFrame, *, loss_column: str = "sft_loss") -> Effects:
    """Effects of the arms in group weight, ordered by weight; ``by_trunk_seed`` has the points of each trunk."""
    return _curve(arms, group="weight", order="weight", loss_column=loss_column)


def forgetting(arms: pd.DataFrame) -> pd.DataFrame:
    """General-corpus loss before and after SFT for every arm and the control, with its rise in nats.

    A row per arm: size, mix, weight, start_step, task, groups, n_trunk_seeds, general_loss_before, general_loss_after,
    forgetting_nats (after − before, positive: general ability was lost in SFT) with ci_low and ci_high over trunk
    seeds, note. Whether an arm ends *better* than the control is ``paired_effects(arms, loss_column="general_loss")``.
    Arms without a finished pair of both losses have no row.
    """
    require_arms(arms)
    records = []
    arms = arms.assign(start_step=arms["start_step"].where(arms["mix"] != CONTROL))
    for _, rows in arms.groupby(ARM_KEY, sort=False, dropna=False):
        measured = rows.dropna(subset=["general_loss", "general_loss_before"])
        if measured.empty:
            continue
        by_seed = measured.groupby("trunk_seed")[["general_loss_before", "general_loss"]].mean()
        rise = mean_interval(by_seed["general_loss"] - by_seed["general_loss_before"])
        records.append(
            {column: rows.iloc[0][column] for column in [*ARM_KEY, "groups"]}
            | {
                "n_trunk_seeds": rise.n,
                "general_loss_before": by_seed["general_loss_before"].mean(),
                "general_loss_after": by_seed["general_loss"].mean(),
                "forgetting_nats": rise.mean,
                "ci_low": rise.low,
                "ci_high": rise.high,
                "note": rise.note,
            }
        )
    columns = [*ARM_KEY, "groups", "n_trunk_seeds", "general_loss_before", "general_loss_after", "forgetting_nats"]
    return pd.DataFrame(records, columns=[*columns, "ci_low", "ci_high", "note"])


def _curve(arms: pd.DataFrame, *, group: str, order: str, loss_column: str) -> Effects:
    effects = paired_effects(in_group(arms, group), loss_column=loss_column)
    by = ["size", "mix", "task", order]
    if effects.table.empty:
        return effects
    return Effects(
        table=effects.table.sort_values(by, kind="stable", ignore_index=True),
        by_trunk_seed=effects.by_trunk_seed.sort_values([*by, "trunk_seed"], kind="stable", ignore_index=True),
        missing=effects.missing,
    )
