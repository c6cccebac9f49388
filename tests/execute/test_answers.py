"""Generated answers as an evaluation: published with their transcripts, scored, and made again byte for byte."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.chat_study import chat_study, write_chat
from builders.places import REPOSITORY
from builders.small_recipes import task
from builders.small_study import make_study, write_text
from pyarrow import parquet

from midstudy.analysis.transcripts import MOST_ITEMS, transcripts_table
from midstudy.cli.main import main
from midstudy.evaluate import scores
from midstudy.execute.evaluation import evaluate_published
from midstudy.execute.work import RankWork
from midstudy.plan.cost import Throughput
from midstudy.plan.device import CPU_CORE
from midstudy.plan.manifest import manifest_of
from midstudy.plan.planner import make_plan
from midstudy.recipe import Study
from midstudy.recipe.data import TokenizedData
from midstudy.recipe.errors import RecipeError
from midstudy.recipe.generation import TRANSCRIPTS_FILE, Generation
from midstudy.recipe.measure import StateEvaluation
from midstudy.recipe.stage import stage_id
from midstudy.run.verify import verify_evaluation
from midstudy.store.store import Store
from midstudy.train.placement import Placement
from midstudy.train.ranks import Ranks


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Study]:
    folder = tmp_path_factory.mktemp("answers")
    write_text(folder)
    write_chat(folder)
    store, study = Store.open(folder / "store", create=True), chat_study(folder)
    make_study(store, study)
    return store, study


def stage_of(study: Study, column: str) -> StateEvaluation:
    measure = study.arms[0].measures[column]
    assert measure.state is not None
    return StateEvaluation(state_id=measure.state.id, evaluation=measure.evaluation)


def transcripts(store: Store, stage: StateEvaluation) -> list[dict[str, Any]]:
    text = (store.published_folder(stage.id) / TRANSCRIPTS_FILE).read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("column", ["answers", "drawn"])
def test_a_scorer_that_knows_nothing_of_midstudy_finds_the_same_accuracy(made: tuple[Store, Study], column: str) -> None:
    store, study = made
    stage = stage_of(study, column)
    tokenizer = study.arms[0].curriculum.start.tokenizer
    tokens = TokenizedData(data=stage.evaluation.data, tokenizer=tokenizer)
    folders = [store.published_folder(one) for one in (stage.id, stage_id(tokens), stage_id(tokenizer))]
    command = [
        sys.executable,
        str(REPOSITORY / "tests" / "outside" / "answers.py"),
        *map(str, folders),
        "test",
        "exact_text",
    ]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    metrics = store.record(stage.id).metrics
    assert found == pytest.approx({name: metrics[name] for name in found}, abs=1e-12)
    per_item, most = (1, 20) if column == "answers" else (3, 6)
    assert metrics["num_answers"] == len(transcripts(store, stage)) == per_item * (most - metrics["prompts_without_room"])


def test_pass_at_k_counts_the_draws_of_samples_with_a_right_one(
    made: tuple[Store, Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that name one word count as right, so that some samples of an item are right."""
    store, study = made
    stage, right = stage_of(study, "drawn"), defaultdict(list)
    monkeypatch.setitem(scores._SCORES, "exact_text", lambda answer, reference: "way" in answer)
    work = RankWork(store=store, should_stop=lambda: False, placement=Placement(), ranks=Ranks())
    metrics = evaluate_published(stage, work, tmp_path)
    for line in map(json.loads, (tmp_path / TRANSCRIPTS_FILE).read_text("utf-8").splitlines()):
        right[line["item"]].append(line["right"])
    assert len({sum(samples) for samples in right.values()}) > 2
    columns = parquet.read_table(tmp_path / "items.parquet").to_pydict()
    for k in (1, 2, 3):
        shares = [np.mean([any(draw) for draw in combinations(right[item], k)]) for item in columns["item"]]
        assert columns[f"pass_at_{k}"] == pytest.approx(shares)
        assert metrics[f"pass_at_{k}"] == pytest.approx(np.mean(shares))
    assert metrics["pass_at_1"] == pytest.approx(metrics["exact_match"])
    assert store.record(stage.id).metrics.keys() == metrics.keys()


def test_a_trained_state_answers_and_ends_its_turn(made: tuple[Store, Study]) -> None:
    store, study = made
    metrics = store.record(stage_of(study, "answers").id).metrics
    assert metrics["well_formed"] > 0.5


def test_answers_are_made_again_byte_for_byte_and_a_difference_is_named(
    made: tuple[Store, Study], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, study = made
    for column in ("answers", "drawn", "after"):
        assert verify_evaluation(store, stage_of(study, column).id) == ()
    stage = stage_of(study, "answers").id
    assert main(["verify", stage, "--store", str(store.root)]) == 0
    assert "made again, byte for byte" in capsys.readouterr().out
    monkeypatch.setitem(scores._SCORES, "exact_text", lambda answer, reference: True)
    assert main(["verify", stage, "--store", str(store.root), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["is_equal"]
    assert any(line.startswith("exact_match: published ") for line in found["differences"])
    assert "transcripts.jsonl: differs from the published file" in found["differences"]


def test_only_evaluations_are_verified(made: tuple[Store, Study], capsys: pytest.CaptureFixture[str]) -> None:
    store, study = made
    assert main(["verify", stage_id(study.arms[0].curriculum.state()), "--store", str(store.root)]) == 2
    assert "expected an evaluation, got" in capsys.readouterr().err


def test_greedy_answers_do_not_depend_on_the_batch(made: tuple[Store, Study]) -> None:
    store, study = made
    stage = stage_of(study, "answers")
    assert isinstance(stage.evaluation, Generation)
    other = replace(stage, evaluation=replace(stage.evaluation, batch_size=3))
    assert other.id != stage.id
    again = chat_study(Path(store.root).parent)
    measures = {**again.arms[0].measures, "answers": replace(again.arms[0].measures["answers"], evaluation=other.evaluation)}
    make_study(store, replace(again, name="batches", arms=[replace(again.arms[0], measures=measures)]))
    assert [line["text"] for line in transcripts(store, other)] == [line["text"] for line in transcripts(store, stage)]


def test_a_prompt_that_leaves_no_room_is_an_error_of_the_evaluation(made: tuple[Store, Study]) -> None:
    store, study = made
    stage = stage_of(study, "answers")
    assert isinstance(stage.evaluation, Generation)
    tight = replace(stage.evaluation, max_new_tokens=63)
    again = chat_study(Path(store.root).parent)
    measures = {"answers": replace(again.arms[0].measures["answers"], evaluation=tight)}
    with pytest.raises(
        ValueError, match=r"generation\.chat: expected prompts of at most 1 tokens, seq_len less max_new_tokens"
    ):
        make_study(store, replace(again, name="tight", arms=[replace(again.arms[0], measures=measures)]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": task("pairs")}, r"generation\.pairs\.data: expected a task of conversations"),
        ({"score": "almost"}, r"generation\.chat\.score: expected one of exact_number, exact_text"),
        ({"num_samples": 2}, r"expected one sample, seed 0 and top_k None with temperature 0"),
        (
            {"pass_at": (2,)},
            r"generation\.chat\.pass_at: expected a tuple of rising numbers of samples, from 1 to num_samples, 1",
        ),
        ({"pass_at": (1, 1)}, r"generation\.chat\.pass_at"),
        ({"pass_at": 1}, r"generation\.chat\.pass_at"),
        ({"max_new_tokens": 0}, r"generation\.chat\.max_new_tokens"),
        ({"temperature": -1}, r"generation\.chat\.temperature"),
    ],
)
def test_a_recipe_that_cannot_be_is_an_error(made: tuple[Store, Study], change: dict[str, Any], message: str) -> None:
    evaluation = stage_of(made[1], "answers").evaluation
    assert isinstance(evaluation, Generation)
    with pytest.raises(RecipeError, match=message):
        replace(evaluation, **change)


def test_the_table_of_transcripts_holds_the_first_items_of_every_generation_with_all_their_samples(
    made: tuple[Store, Study],
) -> None:
    store, study = made
    plan = make_plan(study, throughput=Throughput(CPU_CORE, {}), published=store.published, kept_states=())
    table = transcripts_table(store, manifest_of(plan, command=""))
    assert table is not None
    assert table.groupby("column").size().to_dict() == {"answers": MOST_ITEMS, "drawn": MOST_ITEMS * 3}
    assert set(table["arm"]) == {0}
    for column in ("answers", "drawn"):
        every = transcripts(store, stage_of(study, column))
        found = table[table["column"] == column]
        assert [*found["text"]] == [line["text"] for line in every][: len(found)]
        assert [*found["reference"]] == [line["reference"] for line in every][: len(found)]


def test_a_study_that_generates_nothing_has_no_table_of_transcripts(made: tuple[Store, Study]) -> None:
    store, study = made
    arm = study.arms[0]
    silent = replace(study, arms=[replace(arm, measures={"after": arm.measures["after"]})])
    plan = make_plan(silent, throughput=Throughput(CPU_CORE, {}), published=store.published, kept_states=())
    assert transcripts_table(store, manifest_of(plan, command="")) is None
