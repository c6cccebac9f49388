"""Preparations as stages of a real study: what is kept, what is shared, and on which text arms are measured."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from builders.prepared_study import TOPICS, corpora_of, prepared_study, write_topics
from builders.small_study import make_study, plan_in

from midstudy.analysis.tables import write_tables
from midstudy.data.source import resolve_source
from midstudy.execute.stage import execute_stage
from midstudy.execute.stopped import StoppedError
from midstudy.plan.left_out import left_out_of
from midstudy.plan.planner import Plan
from midstudy.plan.summary import plan_text
from midstudy.recipe import Corpus
from midstudy.recipe.measure import StateEvaluation
from midstudy.recipe.preparation import Prepared, Select
from midstudy.recipe.stage import Stage, stage_id
from midstudy.recipe.study import Study
from midstudy.report.report import Report
from midstudy.report.sections.left_out import left_out
from midstudy.report.sections.preparations import preparations
from midstudy.store.store import Store
from midstudy.store.study_manifest import load
from midstudy.track.points import final_metrics


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    write_topics(folder)
    return folder


@pytest.fixture(scope="module")
def made(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Study, Plan]:
    store, study = Store.open(tmp_path_factory.mktemp("store"), create=True), prepared_study(text)
    return store, study, make_study(store, study)


def id_of(text: Path, name: str) -> str:
    source = corpora_of(text)[name].source
    assert isinstance(source, Prepared)
    return stage_id(source)


def rows(store: Store, stage: str, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (store.published_folder(stage) / f"{split}.jsonl").read_text("utf-8").splitlines()]


def raw(text: Path, split: str) -> list[dict[str, Any]]:
    name = {"dev": "validation"}.get(split, split)
    return [json.loads(line) for line in (text / "general" / f"{name}.jsonl").read_text("utf-8").splitlines()]


def test_train_is_what_the_steps_keep_in_order_and_the_other_splits_are_those_of_the_corpus(
    made: tuple[Store, Study, Plan], text: Path
) -> None:
    store, _, _ = made
    law = id_of(text, "law")
    once: dict[str, dict[str, Any]] = {}
    for row in raw(text, "train"):
        once.setdefault(row["text"].strip(), row)
    assert rows(store, law, "train") == [row for row in once.values() if row["topic"] == "law"]
    for split in ("dev", "test"):
        assert rows(store, law, split) == raw(text, split)


def test_yields_say_what_went_and_why_with_examples(made: tuple[Store, Study, Plan], text: Path) -> None:
    store, _, _ = made
    metrics = store.record(id_of(text, "law")).metrics
    first, second, third = metrics["yields"]
    assert (first["documents_in"], first["documents_out"], first["left_out"]) == (300, 240, {"repeated": 60})
    assert first["examples"]["repeated"][0].startswith("  "), "the second copy goes"
    assert (second["documents_in"], second["left_out"]) == (240, {})
    assert (third["documents_out"], third["left_out"]) == (80, {"art": 80, "sea": 80})
    assert [json.loads(line) for line in (store.published_folder(id_of(text, "law")) / "yields.jsonl").open()] == [
        first,
        second,
        third,
    ]
    assert dict(final_metrics(metrics))["documents after/topic is law"] == 80
    assert metrics["train_documents"] == 80
    assert (
        metrics["train_bytes"]
        == third["bytes_out"]
        == sum(len(row["text"]) for row in rows(store, id_of(text, "law"), "train"))
    )


def test_the_steps_that_preparations_share_are_made_once(made: tuple[Store, Study, Plan], text: Path) -> None:
    store, _, plan = made
    shared = corpora_of(text)["law"].source
    assert isinstance(shared, Prepared)
    prefix = stage_id(shared.first(2))
    stages = {stage.id: stage for stage in plan.stages.values() if stage.kind == "preparation"}
    assert {*stages} == {prefix, *(id_of(text, name) for name in ("law", "art", "sample", "both"))}
    for name in ("law", "art", "sample"):
        assert prefix in stages[id_of(text, name)].parents
    assert id_of(text, "law") in stages[id_of(text, "both")].parents
    art = Counter(row["topic"] for row in rows(store, id_of(text, "art"), "train"))
    assert art == {"art": 80}
    assert Counter(row["topic"] for row in rows(store, prefix, "train")) == dict.fromkeys(TOPICS, 80)


def test_a_preparation_is_the_same_bytes_with_and_without_a_shared_prefix(
    made: tuple[Store, Study, Plan], text: Path, tmp_path: Path
) -> None:
    store, _, _ = made
    alone = Store.open(tmp_path / "store", create=True)
    plan = make_study(alone, prepared_study(text, names=("raw", "law")))
    law = id_of(text, "law")
    assert [stage.id for stage in plan.stages.values() if stage.kind == "preparation"] == [law]
    assert alone.record(law).files == store.record(law).files
    assert alone.record(law).metrics["yields"] == store.record(law).metrics["yields"]


def test_several_corpora_follow_one_another_in_every_split(made: tuple[Store, Study, Plan], text: Path) -> None:
    store, _, _ = made
    both, law = id_of(text, "both"), id_of(text, "law")
    found = rows(store, both, "train")
    assert found[:80] == rows(store, law, "train")
    assert len(found) == 80 + 300
    assert len(rows(store, both, "test")) == 2 * 30


def test_arms_with_and_without_a_filter_are_measured_on_the_same_text(made: tuple[Store, Study, Plan]) -> None:
    store, study, _ = made
    for arm in study.arms:
        found = {
            column: store.record(StateEvaluation(state_id=one.state.id, evaluation=one.evaluation).id).metrics[one.metric]
            for column, one in arm.measures.items()
            if one.state is not None
        }
        assert found["loss"] == found["own_loss"], arm.factors


def test_a_preparation_that_leaves_nothing_says_so(text: Path, tmp_path: Path) -> None:

    corpus = corpora_of(text)["law"]
    assert isinstance(corpus.source, Prepared)
    nothing = replace(corpus.source, steps=(Select(field="topic", values=("war",)),))
    with pytest.raises(ValueError, match="nothing is left of train"):
        run_alone(Store.open(tmp_path / "store", create=True), nothing)


def test_a_stop_leaves_nothing_and_the_next_attempt_begins_again(text: Path, tmp_path: Path) -> None:
    corpus = corpora_of(text)["law"]
    assert isinstance(corpus.source, Prepared)
    store = Store.open(tmp_path / "store", create=True)
    calls = iter(range(10_000))
    with pytest.raises(StoppedError, match="prepares the text from the beginning"):
        run_alone(store, corpus.source, should_stop=lambda: next(calls) > 100)
    assert not store.has(stage_id(corpus.source))
    run_alone(store, corpus.source)
    assert store.record(stage_id(corpus.source)).metrics["train_documents"] == 80


def test_fields_that_json_has_not_are_kept_as_text(tmp_path: Path) -> None:
    written = [
        pd.DataFrame({"text": [f"text {split} {n}" for n in range(3)], "at": pd.Timestamp("2026-01-02")}) for split in "abc"
    ]
    for name, table in zip(("train", "validation", "test"), written, strict=True):
        table.to_parquet(tmp_path / f"{name}.parquet")
    web = Corpus(
        name="web", source=resolve_source(str(tmp_path), name="web", folder="web", is_task=False, may_be_itself=True)
    )
    recipe = Prepared(of=(web,), steps=(Select(field="at", values=("2026-01-02 00:00:00",)),))
    store = Store.open(tmp_path / "store", create=True)
    run_alone(store, recipe)
    assert [(row["text"], row["at"]) for row in rows(store, stage_id(recipe), "train")] == [
        (f"text a {n}", "2026-01-02 00:00:00") for n in range(3)
    ]


def run_alone(store: Store, recipe: Prepared, should_stop: Any = lambda: False) -> None:
    stage = Stage(id=stage_id(recipe), label="preparation", recipe=recipe, parents=(), role="data")
    store.request(stage)
    execute_stage(store, stage.id, start_from=None, keeps_optimizer=False, should_stop=should_stop)


def test_a_plan_prices_preparations_and_shows_where_text_comes_from(text: Path, tmp_path: Path) -> None:
    plan = plan_in(Store.open(tmp_path / "store", create=True), prepared_study(text))
    shown = plan_text(plan).splitlines()
    assert "  prepare  law: general prepared: exact duplicates; overlap with task; topic is law" in shown
    assert not any("prepared" in line for line in shown[1:] if line.startswith("  data"))
    assert all(stage.cost_s > 0 for stage in plan.stages.values() if stage.kind == "preparation")


def test_plans_and_reports_of_a_finished_study_show_what_each_step_kept(
    made: tuple[Store, Study, Plan], tmp_path: Path
) -> None:

    store, study, _ = made
    plan = plan_in(store, study)
    shown = plan_text(replace(plan, left_out=left_out_of(store, plan.stages)))
    kept = "(documents: exact duplicates 300 → 240; overlap with task 240 → 240; topic is law 240 → 80)"
    assert f"topic is law {kept}" in shown
    folder = store.paths.study("prepared")
    write_tables(store, load(store, "prepared"), folder)
    report = Report.of(folder)
    table = preparations(report).markup
    assert "exact duplicates" in table
    assert "60 " in table
    assert "by the steps of their preparation" in left_out(report).markup
