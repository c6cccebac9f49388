"""Accuracies as measures of a study: published with every score, recomputed from the files, and found in MLflow's facts."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.places import REPOSITORY
from builders.quiz_study import quiz_study, write_quiz
from builders.small_study import make_study, write_text
from scipy import stats

from midstudy.cli.main import main
from midstudy.data.tokens import read_split
from midstudy.recipe import Study
from midstudy.recipe.choices import CHOICES_FILE, Choices
from midstudy.recipe.data import TokenizedData
from midstudy.recipe.measure import StateEvaluation
from midstudy.recipe.stage import stage_id
from midstudy.run.verify import verify_evaluation
from midstudy.store.store import Store
from midstudy.store.study_manifest import load
from midstudy.track.facts import study_facts


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Study]:
    folder = tmp_path_factory.mktemp("quiz")
    write_text(folder)
    write_quiz(folder)
    store, study = Store.open(folder / "store", create=True), quiz_study(folder)
    make_study(store, study)
    return store, study


def stage_of(study: Study, column: str) -> StateEvaluation:
    measure = study.arms[0].measures[column]
    assert measure.state is not None
    return StateEvaluation(state_id=measure.state.id, evaluation=measure.evaluation)


def tokens_of(store: Store, study: Study, stage: StateEvaluation) -> Path:
    tokens = TokenizedData(data=stage.evaluation.data, tokenizer=study.arms[0].curriculum.start.tokenizer)
    return store.published_folder(stage_id(tokens))


@pytest.mark.parametrize("column", ["before", "letters", "scrambled", "replies"])
def test_a_scorer_that_knows_nothing_of_midstudy_finds_the_same_accuracy(made: tuple[Store, Study], column: str) -> None:
    store, study = made
    stage = stage_of(study, column)
    tokenizer = store.published_folder(stage_id(study.arms[0].curriculum.start.tokenizer))
    folders = (store.published_folder(stage.id), tokens_of(store, study, stage), tokenizer)
    command = [sys.executable, str(REPOSITORY / "tests" / "outside" / "choices.py"), *map(str, folders), "test"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    metrics = store.record(stage.id).metrics
    assert found.pop("items_agree")
    by_subject = metrics.get("accuracy_by_subject", {})
    assert found.pop("accuracy_by_subject") == pytest.approx(by_subject, abs=1e-12)
    assert found == pytest.approx({name: metrics[name] for name in found}, abs=1e-12)
    assert (metrics["num_questions"], sorted(by_subject)) == (200, [] if column == "replies" else ["school", "world"])


def test_a_trained_state_knows_its_letters_and_scrambled_answers_are_right_by_chance(made: tuple[Store, Study]) -> None:
    store, study = made
    metrics = {name: store.record(stage_of(study, name).id).metrics for name in ("letters", "scrambled", "replies")}
    assert metrics["letters"]["accuracy"] > 0.95
    low, high = stats.binom.interval(0.999, 200, 0.25)
    assert low <= 200 * metrics["scrambled"]["accuracy"] <= high
    chance = metrics["replies"]["chance"]
    assert abs(metrics["replies"]["accuracy"] - chance) < 3.3 * math.sqrt(chance * (1 - chance) / 200)


def test_a_measure_takes_any_metric_of_its_evaluation(made: tuple[Store, Study]) -> None:
    store, study = made
    assert stage_of(study, "centred") == stage_of(study, "replies")
    [arm] = load(store, "quiz").arms
    values = next(run.metrics for run in study_facts(store, load(store, "quiz")) if run.key == arm.state)
    metrics = store.record(stage_of(study, "replies").id).metrics
    assert values["arm/replies"] == metrics["accuracy"]
    assert values["arm/centred"] == metrics["centred_accuracy"]
    assert values["arm/late_loss"] == store.record(stage_of(study, "late_loss").id).metrics["loss_nats_4_of_4"]
    assert values["arm/noise"] == store.record(stage_of(study, "noise").id).metrics["noise_scale_sequences"]


def test_the_run_of_an_evaluation_has_the_accuracy_of_each_subject(made: tuple[Store, Study]) -> None:
    store, study = made
    stage = stage_of(study, "scrambled")
    run = next(run for run in study_facts(store, load(store, "quiz")) if run.key == stage.id)
    of_record = store.record(stage.id).metrics
    assert {name: run.metrics[name] for name in ("accuracy", "centred_accuracy", "num_questions")} == {
        name: of_record[name] for name in ("accuracy", "centred_accuracy", "num_questions")
    }
    assert run.metrics["accuracy_by_subject/school"] == of_record["accuracy_by_subject"]["school"]


def test_every_evaluation_is_made_again_byte_for_byte(made: tuple[Store, Study]) -> None:
    store, study = made
    for column in ("scrambled", "replies", "late_loss", "noise"):
        assert verify_evaluation(store, stage_of(study, column).id) == ()


def test_transformers_chooses_the_same_letters_and_replies(made: tuple[Store, Study], tmp_path: Path) -> None:
    """From the rows, the chat template and the weights of the exported state."""
    transformers = pytest.importorskip("transformers")
    store, study = made
    state = stage_of(study, "letters").state_id
    assert main(["export", state, "--to", "hf", "--output", str(tmp_path / "model"), "--store", str(store.root)]) == 0
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")

    def log_probabilities(ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = model(torch.tensor([ids])).logits[0]
        return logits.double().log_softmax(dim=1)

    for column in ("letters", "replies"):
        stage, agreed = stage_of(study, column), 0
        text = (store.root.parent / "sft" / column / "test.jsonl").read_text("utf-8")
        rows = [json.loads(line) for line in text.splitlines()]
        published = (store.published_folder(stage.id) / CHOICES_FILE).read_text("utf-8").splitlines()
        for line in list(map(json.loads, published))[:60]:
            row = rows[line["item"]]
            scores = []
            for choice in row["choices"]:
                said = [*row["messages"][:-1], {"role": "assistant", "content": choice}]
                prompt, whole = (
                    tokenizer.apply_chat_template(messages, add_generation_prompt=is_open, return_dict=True)["input_ids"]
                    for messages, is_open in ((said[:-1], True), (said, False))
                )
                found, reply = log_probabilities(whole[:-1])[len(prompt) - 1 :], whole[len(prompt) :]
                assert whole[: len(prompt)] == prompt
                nats = [float(found[place, token]) for place, token in enumerate(reply)]
                scores.append(nats[0] if column == "letters" else sum(nats) / len(choice.encode()))
            best = max(range(len(scores)), key=scores.__getitem__)
            agreed += (row["choices"][best] == row["messages"][-1]["content"]) == line["right"]
            assert best == line["chosen"]
        assert agreed == 60


def test_tokens_without_choices_are_refused(made: tuple[Store, Study], tmp_path: Path) -> None:
    store, study = made
    stage = stage_of(study, "letters")
    assert isinstance(stage.evaluation, Choices)
    assert len(read_split(tokens_of(store, study, stage), "test").questions) == 200
    text = store.root.parent / "sft" / "letters"
    for path in text.glob("*.jsonl"):
        rows = [{"messages": json.loads(line)["messages"]} for line in path.read_text("utf-8").splitlines()]
        (tmp_path / "sft" / "letters").mkdir(parents=True, exist_ok=True)
        (tmp_path / "sft" / "letters" / path.name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("general", "sft/scrambled", "sft/replies"):
        (tmp_path / name).symlink_to(store.root.parent / name)
    again = quiz_study(tmp_path)
    measures: dict[str, Any] = {"letters": again.arms[0].measures["letters"]}
    with pytest.raises(ValueError, match=r"choices\.letters\.data: .* got none in 200 of the 200 items of test"):
        make_study(store, replace(again, name="plain", arms=[replace(again.arms[0], measures=measures)]))
