"""The tables of a real small study: losses as recorded, mixes of any number of specialists, nothing of what is unknown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_study import plan_in, small_study

from midstudy.analysis.table import arms_table, similarity_tables
from midstudy.execute.stage import execute_stage
from midstudy.plan.manifest import manifest_of
from midstudy.store.store import Store


@pytest.fixture(scope="module")
def made(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Mapping[str, Any]]:
    """Everything of the small study but the evaluations of its code arm."""
    store = Store.open(tmp_path_factory.mktemp("table") / "store", create=True)
    plan = plan_in(store, small_study(text))
    manifest = manifest_of(plan, command="midstudy run small.py")
    (code,) = (arm for arm in manifest["arms"] if arm["mix"] == "code")
    left_out = {code["task_evaluation"], code["general_evaluation"]}
    for stage in plan.stages.values():
        store.request(stage)
        if stage.id not in left_out:
            kept: dict[str, Any] = {"start_from": stage.start_from, "keeps_optimizer": stage.keeps_optimizer}
            execute_stage(store, stage.id, should_stop=lambda: False, **kept)
    return store, manifest


def test_losses_are_those_of_the_records_and_unknown_ones_are_nan(made: tuple[Store, Mapping[str, Any]]) -> None:
    store, manifest = made
    arms = arms_table(store, manifest).set_index("mix")
    planned = {arm["mix"]: arm for arm in manifest["arms"]}
    recorded = store.record(planned["control"]["task_evaluation"]).metrics["loss_nats"]
    assert arms.loc["control", "sft_loss"] == recorded > 0
    assert pd.isna(arms.loc["code", "sft_loss"])
    assert pd.isna(arms.loc["code", "general_loss"])
    assert arms.loc["code", "sft_loss_before"] > 0


def tables_of(made: tuple[Store, Mapping[str, Any]], **specialists: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    store, manifest = made
    arms = [{"mix": "mixed", "weight": sum(specialists.values()), "specialists": specialists}, manifest["arms"][0]]
    return similarity_tables(store, {**manifest, "arms": arms})


def test_a_mix_of_several_specialists_has_a_proximity_advantage(made: tuple[Store, Mapping[str, Any]]) -> None:
    # General text drawn as a specialist is general text: the same mixture as with code alone.
    similarity, two = tables_of(made, code=0.25, general=0.5)
    _, one = tables_of(made, code=0.25)
    assert list(two["weight"]) == [0.75] * 2
    assert list(two["task"]) == ["code_task", "word_task"]
    assert two["pa_combined"].tolist() == pytest.approx(one["pa_combined"].tolist())
    assert two["pa_combined"][0] > 0 > two["pa_combined"][1]
    assert set(similarity.loc[similarity["left_kind"] == "mixture", "left"]) == {"mixed 75 %"}


def test_similarities_wait_for_every_count(made: tuple[Store, Mapping[str, Any]]) -> None:
    store, manifest = made
    counts = [*manifest["counts"], {"stage": "0" * 64, "data": "more", "kind": "corpus"}]
    for table in similarity_tables(store, {**manifest, "counts": counts}):
        assert table.empty
