"""The tidy table of arms that everything in this package starts from: its columns, its rules, its groups.

One row per (size, mix, weight, start step, task, trunk seed, SFT seed). A loss that is NaN belongs to a stage that is
not finished; a table of a half-done study is valid.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

CONTROL = "control"
GROUPS = ("main", "continued", "timing", "weight")

#: Column → what it holds. Losses are nats per token on test splits.
ARM_COLUMNS: dict[str, str] = {
    "study": "name of the study; one study a table",
    "size": "model size",
    "mix": "midtraining mix; 'control' is general text only",
    "weight": "specialist share of the tokens after the start step, 0 to 1; 0 for the control",
    "start_step": "curriculum step at which the mix starts; for the control any value, it is not read",
    "start_fraction": "start_step over the steps of the curriculum",
    "task": "SFT task",
    "trunk_seed": "seed of pretraining and midtraining",
    "sft_seed": "seed of SFT; does not replicate a trunk",
    "groups": "comma-joined subset of main (the control, and every mix once), continued, timing, weight",
    "specialist_tokens": "specialist tokens drawn",
    "pretrain_tokens": "tokens of the whole curriculum before SFT",
    "sft_loss": "task loss after SFT, test",
    "general_loss": "general-corpus loss after SFT, test",
    "sft_loss_before": "task loss before SFT, test",
    "general_loss_before": "general-corpus loss before SFT, test",
    "sft_state": "stage id of the state after SFT",
    "start_state": "stage id of the state that SFT started from",
}
LOSS_COLUMNS = ("sft_loss", "general_loss", "sft_loss_before", "general_loss_before")

#: What makes two rows the same arm, seeds apart.
ARM_KEY = ["size", "mix", "weight", "start_step", "task"]
SEED_KEY = ["trunk_seed", "sft_seed"]


def require_arms(arms: pd.DataFrame) -> None:
    """Raise ValueError, naming column and arm, where the table breaks a rule that the statistics rest on."""
    absent = [column for column in ARM_COLUMNS if column not in arms.columns]
    if absent:
        raise ValueError(f"table of arms: missing columns {', '.join(absent)}; rebuild it from the store")
    studies = list(arms["study"].unique())
    if len(studies) > 1:
        raise ValueError(f"table of arms: rows of {len(studies)} studies ({', '.join(map(str, studies))}); analyse one")
    for column in LOSS_COLUMNS:
        values = pd.to_numeric(arms[column], errors="coerce")
        wrong = (arms[column].notna() & values.isna()) | np.isinf(values) | (values < 0)
        if wrong.any():
            row = arms[wrong].iloc[0]
            raise ValueError(
                f"table of arms: {column} of {describe_run(row)} is {row[column]}; "
                "a loss is a finite number of nats per token, or NaN where its stage is not finished"
            )
    is_control = arms["mix"] == CONTROL
    wrong = ((arms["weight"] != 0) & is_control) | (~((arms["weight"] > 0) & (arms["weight"] <= 1)) & ~is_control)
    if wrong.any():
        row = arms[wrong].iloc[0]
        raise ValueError(
            f"table of arms: weight of {describe_run(row)} is {row['weight']}; "
            "allowed are 0 for the control and more than 0 up to 1 for a mix"
        )
    for row_groups in arms["groups"].unique():
        unknown = sorted(_split_groups(row_groups) - set(GROUPS))
        if unknown:
            raise ValueError(f"table of arms: groups '{row_groups}'; allowed are none or more of {', '.join(GROUPS)}")
    variants = arms[is_member(arms, "main") & ~is_control].drop_duplicates(ARM_KEY)
    repeated = variants.duplicated(["size", "mix", "task"], keep=False)
    if repeated.any():
        names = "; ".join(describe_arm(row) for _, row in variants[repeated].iloc[:2].iterrows())
        raise ValueError(
            f"table of arms: group main has more than one arm of a mix ({names}); "
            "keep one in main and put variants into groups timing or weight"
        )
    for rows, key in ((arms[~is_control], ARM_KEY), (arms[is_control], ["size", "task"])):
        repeated = rows.duplicated([*key, *SEED_KEY])
        if repeated.any():
            raise ValueError(
                f"table of arms: {describe_run(rows[repeated].iloc[0])} has more than one row; "
                "there is no best of duplicates, keep one stage for an arm and its seeds"
            )


def in_group(arms: pd.DataFrame, group: str) -> pd.DataFrame:
    """Rows of the arms in ``group``, with the control, which every group is compared with."""
    return arms[is_member(arms, group) | (arms["mix"] == CONTROL)]


def is_member(table: pd.DataFrame, group: str) -> pd.Series:
    """Whether each row of a table with a ``groups`` column belongs to ``group``."""
    if group not in GROUPS:
        raise ValueError(f"group '{group}' is unknown; allowed are {', '.join(GROUPS)}")
    return table["groups"].map(lambda groups: group in _split_groups(groups)).astype(bool)


def describe_arm(row: Mapping[str, object] | pd.Series) -> str:
    """An arm in words, seeds apart: 'micro code 20 % from step 36 → pycode'."""
    if row["mix"] == CONTROL:
        return f"{row['size']} {CONTROL} → {row['task']}"
    return f"{row['size']} {row['mix']} {100 * float(row['weight']):g} % from step {row['start_step']} → {row['task']}"  # type: ignore[arg-type]


def describe_run(row: Mapping[str, object] | pd.Series) -> str:
    """An arm with its seeds in words."""
    return f"{describe_arm(row)} (trunk seed {row['trunk_seed']}, SFT seed {row['sft_seed']})"


def _split_groups(groups: object) -> set[str]:
    return {name.strip() for name in str(groups).split(",") if name.strip()}
