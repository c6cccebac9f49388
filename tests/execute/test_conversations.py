"""Conversations in a study: in a mixture and in a task, from rows of messages to losses and an exported chat model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders.chat_study import chat_study, write_chat
from builders.small_study import make_study, write_text

from midstudy.data.tokens import read_split
from midstudy.export import export_huggingface
from midstudy.recipe import Study
from midstudy.recipe.data import TokenizedData, sources_of
from midstudy.recipe.measure import StateEvaluation
from midstudy.recipe.stage import stage_id
from midstudy.store.store import Store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Study, TokenizedData]:
    folder = tmp_path_factory.mktemp("chat")
    write_text(folder)
    write_chat(folder)
    store = Store.open(folder / "store", create=True)
    study = chat_study(folder)
    make_study(store, study)
    arm = study.arms[0]
    task = arm.measures["after"].evaluation.data
    return store, study, TokenizedData(data=task, tokenizer=arm.curriculum.start.tokenizer)


def losses_of(store: Store, study: Study) -> dict[str, dict[str, Any]]:
    measures = study.arms[0].measures
    return {
        name: store.record(StateEvaluation(state_id=measure.state.id, evaluation=measure.evaluation).id).metrics
        for name, measure in measures.items()
        if measure.state is not None
    }


def test_replies_are_learnt_and_their_tokens_alone_are_counted(made: tuple[Store, Study, TokenizedData]) -> None:
    store, study, tokens = made
    metrics = losses_of(store, study)
    split = read_split(store.published_folder(stage_id(tokens)), "test")
    num_targets = sum(int(split.targets_of(item).sum()) for item in range(split.num_documents))
    assert metrics["before"]["target_tokens"] == metrics["after"]["target_tokens"] == num_targets
    assert metrics["after"]["loss_nats"] < metrics["before"]["loss_nats"] - 0.3
    assert 0 < metrics["packed"]["target_tokens"] < 8 * 64


def test_an_exported_model_renders_chats_with_the_ids_it_was_trained_on(
    made: tuple[Store, Study, TokenizedData], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    store, study, tokens = made
    state = stage_id(study.arms[0].curriculum.state())
    export_huggingface(store, state, tmp_path / "model", commands=["midstudy export"], losses={})
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    split = read_split(store.published_folder(stage_id(tokens)), "test")
    [source] = sources_of(tokens.data.source)
    rows = [json.loads(line) for line in (Path(source.location) / "test.jsonl").read_text().splitlines()]
    for item, row in enumerate(rows):
        encoded = theirs.apply_chat_template(row["messages"], tokenize=True, return_dict=True)
        assert encoded["input_ids"] == split.document(item).tolist()
    prompt = theirs.apply_chat_template(rows[0]["messages"][:1], tokenize=False, add_generation_prompt=True)
    assert prompt.endswith("<|user_end|><|assistant_start|>")
