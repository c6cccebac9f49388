"""Effects of midtraining against the general-only control, and of one mix against the others.

Effects are paired by trunk seed and keyed by (size, task), as relative improvement is in arXiv 2510.14865; a missing
control is never replaced by another cell's (the authors' scripts fall back to the 70m code baseline).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from midstudy.analysis.arms import ARM_KEY, CONTROL, SEED_KEY, describe_run, in_group, require_arms
from midstudy.analysis.pairs import SEED_COLUMNS, SUMMARY_COLUMNS, comparison_table, pair_by_trunk_seed, summarise

_PASSED_ON = ["start_fraction", "groups", "specialist_tokens"]
BY_TRUNK_SEED_COLUMNS = [*ARM_KEY, "start_fraction", "groups", *SEED_COLUMNS]
EFFECT_COLUMNS = [*ARM_KEY, *_PASSED_ON, *SUMMARY_COLUMNS]


@dataclass(frozen=True, eq=False)
class Effects:
    """Paired effects of every arm against its control.

    ``table``: one row per arm with at least one finished pair: size, mix, weight, start_step, task, start_fraction,
    groups, specialist_tokens, n_trunk_seeds, n_sft_seeds, control_loss, loss, difference_nats (control − arm, positive
    is better) with ci_low and ci_high, relative_improvement with relative_ci_low and relative_ci_high, p_value, note,
    p_holm, family_size. ``by_trunk_seed``: the values behind it. ``missing``: runs that could not be used, with reason.
    """

    table: pd.DataFrame
    by_trunk_seed: pd.DataFrame
    missing: pd.DataFrame


def paired_effects(arms: pd.DataFrame, *, loss_column: str = "sft_loss") -> Effects:
    """Compare every arm of the table with the control of its (size, task), over common seeds.

    The Holm family is all arms in the table passed in: pass ``in_group(arms, "main")`` for the main question alone.
    ``loss_column="general_loss"`` gives forgetting.

    Raises ValueError naming the arm where a finished run has no control run of the same size, task, trunk seed and SFT
    seed in the table at all; runs that exist but are not finished are listed in ``missing`` instead.
    """
    require_arms(arms)
    control = arms[arms["mix"] == CONTROL]
    missing = [_missing(control[control[loss_column].isna()], loss_column, "not finished")]
    records, seed_tables = [], []
    for _, rows in arms[arms["mix"] != CONTROL].groupby(ARM_KEY, sort=False, dropna=False):
        first = rows.iloc[0]
        reference = control[(control["size"] == first["size"]) & (control["task"] == first["task"])]
        missing += _unpaired(rows, reference, loss_column)
        by_seed = pair_by_trunk_seed(rows, reference, loss_column=loss_column)
        if by_seed.empty:
            continue
        identity = {column: first[column] for column in [*ARM_KEY, "start_fraction", "groups"]}
        records.append(identity | {"specialist_tokens": rows["specialist_tokens"].mean()} | summarise(by_seed))
        seed_tables.append(by_seed.assign(**identity)[BY_TRUNK_SEED_COLUMNS])
    table = comparison_table(records, columns=EFFECT_COLUMNS).rename(columns={"reference_loss": "control_loss"})
    empty = pd.DataFrame(columns=BY_TRUNK_SEED_COLUMNS)
    by_trunk_seed = pd.concat(seed_tables, ignore_index=True) if seed_tables else empty
    return Effects(
        table=table,
        by_trunk_seed=by_trunk_seed.rename(columns={"reference_loss": "control_loss"}),
        missing=pd.concat(missing, ignore_index=True),
    )


def best_of(arms: pd.DataFrame, *, size: str, task: str, mix: str, loss_column: str = "sft_loss") -> pd.DataFrame:
    """Compare one mix of the main group with every other main mix and the control on one task.

    Returns a row per rival: size, task, mix, other (the rival), other_weight, other_start_step, n_trunk_seeds,
    n_sft_seeds, loss, other_loss, difference_nats (rival − mix over common seeds, positive: ``mix`` is better) with
    interval, relative_improvement with interval, p_value, note, p_holm, family_size. Intervals need two common trunk
    seeds; a rival without any common finished seed stays in the table with a note.

    Raises ValueError where the main group has no such mix for this size and task.
    """
    require_arms(arms)
    cell = in_group(arms, "main")
    cell = cell[(cell["size"] == size) & (cell["task"] == task)]
    rows = cell[cell["mix"] == mix]
    if rows.empty:
        found = ", ".join(dict.fromkeys(cell["mix"])) or "nothing"
        raise ValueError(f"mix '{mix}': not in group main for {size} → {task}; the mixes there are {found}")
    rivals = cell[cell["mix"] != mix]
    rivals = rivals.assign(start_step=rivals["start_step"].where(rivals["mix"] != CONTROL))
    records = []
    for key, rival in rivals.groupby(["mix", "weight", "start_step"], sort=False, dropna=False):
        by_seed = pair_by_trunk_seed(rows, rival, loss_column=loss_column)
        record = {"size": size, "task": task, "mix": mix, "other": key[0]}
        record |= {"other_weight": key[1], "other_start_step": key[2]} | summarise(by_seed)
        if by_seed.empty:
            record["note"] = "no finished seed in common"
        records.append(record)
    columns = ["size", "task", "mix", "other", "other_weight", "other_start_step", *SUMMARY_COLUMNS]
    return comparison_table(records, columns=columns).rename(columns={"reference_loss": "other_loss"})


def _unpaired(rows: pd.DataFrame, reference: pd.DataFrame, loss_column: str) -> list[pd.DataFrame]:
    """List runs that cannot be paired yet; raise for a finished run whose control run does not exist."""
    finished = rows[loss_column].notna().to_numpy()
    control = dict(
        zip(zip(reference["trunk_seed"], reference["sft_seed"], strict=True), reference[loss_column].notna(), strict=True)
    )
    seeds = list(zip(rows["trunk_seed"], rows["sft_seed"], strict=True))
    orphans = rows[finished & np.array([pair not in control for pair in seeds], dtype=bool)]
    if len(orphans):
        raise ValueError(
            f"{describe_run(orphans.iloc[0])}: the study has no control run with the same size, task and seeds, so its "
            "effect cannot be stated; add the control to the study for these seeds, or leave the arm out"
        )
    waiting = finished & np.array([not control.get(pair, False) for pair in seeds], dtype=bool)
    missing = []
    if not finished.all():
        missing.append(_missing(rows[~finished], loss_column, "not finished"))
    if waiting.any():
        missing.append(_missing(rows[waiting], loss_column, "its control is not finished"))
    return missing


def _missing(rows: pd.DataFrame, loss_column: str, reason: str) -> pd.DataFrame:
    return rows[[*ARM_KEY, *SEED_KEY]].assign(loss_column=loss_column, reason=reason)
