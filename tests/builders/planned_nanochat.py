"""The nanochat study as it is planned, with shares, losses and transcripts that are made up, so that nothing is trained."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import pandas as pd

from builders.places import REPOSITORY
from midstudy.analysis.rehearsal import made_up_tables
from midstudy.analysis.share_intervals import wilson_interval
from midstudy.analysis.tables import Tables
from midstudy.data.builtin.abilities.prompts import PROMPTS
from midstudy.plan.cost import Throughput
from midstudy.plan.device import CPU_CORE
from midstudy.plan.experiment import load_study
from midstudy.plan.manifest import manifest_of
from midstudy.plan.planner import make_plan
from midstudy.recipe.manifest import Manifest

NUM_ITEMS = 100

TAUGHT = {"base": 0.0, "mid": 0.6, "sft": 0.5, "rl": 0.5}
"""The share of right spellings after each stage that has midtraining, but for the seed's hundredth."""


@functools.cache
def planned(*settings: str) -> Manifest:
    """Return the manifest of the study with `--set` arguments."""
    study = load_study(REPOSITORY / "experiments" / "nanochat.py", settings=list(settings))
    plan = make_plan(study, throughput=Throughput(CPU_CORE, {}), published=lambda _: set(), kept_states=())
    return manifest_of(plan, command="midstudy run experiments/nanochat.py")


def planned_tables(*settings: str, remembered_bits: float = 0.0) -> Tables:
    """Return tables in which midtraining teaches spelling, forgets chat in sequence, and leaves every other share at 0.25.

    Args:
        remembered_bits: how much SFT on all tokens lowers the loss on its questions.
    """
    tables = made_up_tables(planned(*settings))
    manifest, arms = tables.manifest, tables.arms.copy()
    rng = np.random.default_rng(0)
    shares = [name for name, one in manifest.columns.items() if one.metric in ("exact_match", "accuracy", "well_formed")]
    for name in shares:
        arms[name] = 0.25
    after = np.where(arms["mid"] == "none", "base", arms["after"])
    arms["spelling"] = [TAUGHT[one] for one in after] + 0.01 * arms["trunk_seed"] * (after != "base")
    arms["chat_bits"] = 2.0 + 0.5 * (arms["mid"] == "sequential") + 0.001 * rng.standard_normal(len(arms))
    if "sft_question_bits" in arms:
        arms["fresh_question_bits"] = 2.0 + 0.001 * rng.standard_normal(len(arms))
        arms["sft_question_bits"] = 1.9 - remembered_bits * (arms["sft"] == "unmasked")
    items = pd.concat([_items(row, name, arms) for row in arms.index for name in shares], ignore_index=True)
    return Tables(
        manifest,
        arms.assign(wall_s=1.0),
        _curves(manifest),
        None,
        None,
        items=items,
        shares=_shares(manifest, arms, shares),
        transcripts=_transcripts(manifest),
    )


def _items(row: int, column: str, arms: pd.DataFrame) -> pd.DataFrame:
    right = np.arange(NUM_ITEMS) < round(NUM_ITEMS * float(arms.loc[row, column]))
    return pd.DataFrame({"arm": row, "column": column, "item": np.arange(NUM_ITEMS), "right": right.astype(float)})


def _shares(manifest: Manifest, arms: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    rows = []
    for row, arm in enumerate(manifest.arms):
        for number, column in enumerate(columns):
            share = float(arms.loc[row, column])
            low, high = wilson_interval(share, NUM_ITEMS)
            rows.append(
                {
                    "measure": number,
                    "evaluation": arm.measures[column][0],
                    "state": manifest.stages[arm.state].label,
                    "column": column,
                    "metric": manifest.columns[column].metric,
                    "data": manifest.columns[column].data,
                    "split": "test",
                    "step": arm.num_steps,
                    "num_items": NUM_ITEMS,
                    "share": share,
                    "ci_low": low,
                    "ci_high": high,
                    "commonest": {"counting": 0.34}.get(column, 0.01),
                    "before": "",
                    **dict.fromkeys(("change", "change_low", "change_high", "p_value"), float("nan")),
                }
            )
    return pd.DataFrame(rows)


def _curves(manifest: Manifest) -> pd.DataFrame:
    rows = [
        {"arm": row, **arm.factors, "column": name, "step": manifest.stages[one].step, "value": 2.0 + 0.1 * place}
        for row, arm in enumerate(manifest.arms)
        for name, stages in arm.measures.items()
        if manifest.columns[name].is_curve
        for place, one in enumerate(stages)
    ]
    return pd.DataFrame(rows, columns=["arm", *manifest.factor_names, "column", "step", "value"])


def _transcripts(manifest: Manifest) -> pd.DataFrame:
    rows = [
        {"arm": row, "column": column, "item": item, "sample": 0, "reference": pair[1], **_reply(column, arm.factors, item)}
        for row, arm in enumerate(manifest.arms)
        for column in ("prompts", "chat_format")
        for item, pair in enumerate(PROMPTS)
    ]
    return pd.DataFrame(rows).assign(right=False, tool_calls_answered=0)


def _reply(column: str, factors: Mapping[str, object], item: int) -> dict[str, object]:
    text = f"<b>reply {item}</b> of {column} after {factors['after']} of {factors['mid']} with seed {factors['trunk_seed']}"
    return {"text": text, "well_formed": factors["after"] != "base"}
