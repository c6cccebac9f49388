"""Pairs of a mix and a task carry names, proximity, dose and the improvement with every seed, finished or not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from builders.analysis_tables import ADVANTAGES, bridging_tables, proximity_table

from midstudy.analysis.effects import effects
from midstudy.analysis.mix_task import mix_task_pairs
from midstudy.analysis.tables import Tables


def pairs_of(tables: Tables, comparison: str = "main") -> pd.DataFrame:
    pairs = mix_task_pairs(tables, tables.manifest.comparison(comparison), "sft_loss", task="task")
    assert pairs is not None
    return pairs


def test_a_pair_is_an_effect_beside_the_proximity_of_its_mix() -> None:
    tables = bridging_tables()
    pairs, table = pairs_of(tables), effects(tables, tables.manifest.comparison("main"), "sft_loss").table
    pd.testing.assert_frame_equal(pairs[list(table.columns)], table)
    assert dict(zip(zip(pairs["mix"], pairs["task"], strict=True), pairs["pa_combined"], strict=True)) == ADVANTAGES
    assert pairs["pair"].tolist()[:2] == ["code → pycode", "math → pycode"]


def test_the_improvement_with_each_seed_averages_to_that_of_the_pair() -> None:
    pairs = pairs_of(bridging_tables())
    replicates = pairs[["improvement:0", "improvement:1", "improvement:2"]]
    assert replicates.mean(axis=1).tolist() == pytest.approx(pairs["relative_improvement"].tolist())


def test_an_unfinished_pair_keeps_its_proximity_and_its_dose() -> None:
    pairs = pairs_of(bridging_tables(unfinished=[{"mix": "code", "task": "pycode"}, {"mix": "math", "trunk_seed": 1}]))
    assert len(pairs) == 6
    first = pairs.iloc[0]
    assert (first["pair"], first["pa_combined"], first["dose"]) == ("code → pycode", 0.16, pytest.approx(0.1))
    assert pairs["relative_improvement"].isna().tolist() == [True] + 5 * [False]
    assert pairs["improvement:1"].isna().tolist() == [True, True, False, False, True, False]


def test_nothing_finished_has_pairs_without_improvements() -> None:
    pairs = pairs_of(bridging_tables(unfinished=[{}]))
    assert len(pairs) == 6
    assert pairs["relative_improvement"].isna().all()


def test_the_dose_is_that_of_the_corpora_that_the_reference_lacks() -> None:
    tables = bridging_tables()
    blend, *others = tables.manifest.mixes
    both = replace(blend, shares={"general": 0.8, "code": 0.1, "math": 0.1})
    arms = tables.arms.assign(**{"dose:code": 0.02, "dose:math": 0.05, "dose:general": 0.9})

    def dose(mixes: tuple[Any, ...], arms: pd.DataFrame = arms) -> list[float]:
        changed = replace(tables, arms=arms, manifest=replace(tables.manifest, mixes=mixes))
        found: list[float] = pairs_of(changed)["dose"].tolist()[:2]
        return found

    assert dose((both, *others)) == pytest.approx([0.07, 0.05])
    unknown = dose((blend, *others), arms.drop(columns="dose:code"))
    assert pd.isna(unknown[0])
    assert unknown[1] == pytest.approx(0.05)
    tuned = arms.assign(**{"items:pycode": 100, "dose:pycode": 0.5})
    assert dose((both, *others), tuned) == pytest.approx([0.14, 0.1]), "of the rates on corpora, not of those on the task"


def test_mixes_of_one_corpus_are_told_apart_by_their_weight() -> None:
    tables = bridging_tables()
    more = proximity_table().query("mix == 'code'").assign(weight=0.1, mix_name="code 10 %")
    code = tables.manifest.mixes[0]
    mixes = (*tables.manifest.mixes, replace(code, name="code 10 %", factors={"mix": "code", "weight": 0.1}))
    changed = replace(
        tables,
        proximity=pd.concat([tables.proximity, more], ignore_index=True),
        manifest=replace(tables.manifest, mixes=mixes),
    )
    assert set(pairs_of(changed, "weight")["mix_label"]) == {"weight 0.1", "weight 0.2"}


def test_pairs_wait_for_the_counts() -> None:
    tables = replace(bridging_tables(), proximity=None)
    assert mix_task_pairs(tables, tables.manifest.comparison("main"), "sft_loss", task="task") is None


def test_a_missing_proximity_advantage_is_an_error_that_names_the_pair() -> None:
    tables, known = bridging_tables(), proximity_table()
    without = known[~((known["mix"] == "math") & (known["task"] == "pycode"))]
    with pytest.raises(ValueError, match=r"mix math, weight 0\.2, task pycode: expected one mix .*, got 0"):
        pairs_of(replace(tables, proximity=without))
    with pytest.raises(ValueError, match=r"mix code, weight 0\.2"):
        pairs_of(replace(tables, proximity=known.assign(weight=0.25)))
