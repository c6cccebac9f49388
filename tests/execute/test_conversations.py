"""Conversations in a study: in a mixture and in a task, from rows of messages to losses and an exported chat model."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders.small_study import WORDS, make_study, write_split, write_text

from midstudy.data.source import resolve_source
from midstudy.data.tokens import read_split
from midstudy.export import export_huggingface
from midstudy.recipe import (
    AdamW,
    Arm,
    Constant,
    Corpus,
    Curriculum,
    Evaluation,
    Measure,
    Mixture,
    Phase,
    Start,
    Study,
    Task,
    Tokenizer,
    pythia,
)
from midstudy.recipe.data import CONVERSATION_TOKENS, TokenizedData, sources_of
from midstudy.recipe.measure import StateEvaluation
from midstudy.recipe.stage import stage_id
from midstudy.store.store import Store


def write_chat(folder: Path) -> None:
    """Write conversations whose replies repeat the last word of the question, which is easy to learn."""
    rng = random.Random(5)
    for split, number in (("train", 200), ("validation", 10), ("test", 20)):
        rows = []
        for _ in range(number):
            messages: list[dict[str, Any]] = []
            for _ in range(rng.randint(1, 3)):
                asked = rng.choices(WORDS, k=3)
                messages += [
                    {"role": "user", "content": " ".join(asked)},
                    {"role": "assistant", "content": [{"type": "text", "text": f"The {asked[-1]}."}]},
                ]
            rows.append({"messages": messages})
        write_split(folder / "sft" / "chat", split, rows)


def chat_study(folder: Path) -> tuple[Study, Evaluation, TokenizedData]:
    def source(name: str, place: str, is_task: bool) -> Any:
        return resolve_source(str(folder), name=name, folder=place, is_task=is_task)

    general = Corpus(name="general", source=source("general", "general", False))
    annealed = Corpus(name="talk", source=source("talk", "sft/chat", False))
    task = Task(name="chat", source=source("chat", "sft/chat", True))
    tokenizer = Tokenizer(corpus=general, vocab_size=300, max_bytes=50_000, special_tokens=CONVERSATION_TOKENS)
    start = Start(model=pythia("nano", vocab_size=512, max_seq_len=64), tokenizer=tokenizer, seed=0)
    shared: dict[str, Any] = {
        "num_sequences": 4,
        "seq_len": 64,
        "optimizer": AdamW(beta1=0.9, beta2=0.95, weight_decay=0.1, clip_norm=1.0),
        "schedule": Constant(lr=3e-3),
        "precision": "fp32",
        "seed": 0,
        "optimizer_state": "reset",
        "data_positions": "reset",
        "loss": "target_tokens",
    }
    trunk = Curriculum.of(
        start,
        Phase(name="pretrain", data=Mixture.only(general), num_steps=6, **shared | {"loss": "all_tokens"}),
        Phase(name="anneal", data=Mixture.blend(general, {annealed: 0.5}), num_steps=6, **shared),
    )
    tuned = trunk.then(Phase(name="sft", data=task, num_steps=12, **shared))
    evaluation = Evaluation(data=task, split="test", loss="target_tokens", seq_len=64, max_sequences=20)
    packed = replace(evaluation, data=annealed, max_sequences=8)
    measures = {
        "before": Measure(state=trunk.state(), evaluation=evaluation),
        "after": Measure(state=tuned.state(), evaluation=evaluation),
        "packed": Measure(state=tuned.state(), evaluation=packed),
    }
    arm = Arm(curriculum=tuned, measures=measures)
    return (
        Study(name="chat", question="Does it answer?", arms=[arm], seeds=()),
        evaluation,
        TokenizedData(data=task, tokenizer=tokenizer),
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Study, TokenizedData]:
    folder = tmp_path_factory.mktemp("chat")
    write_text(folder)
    write_chat(folder)
    store = Store.open(folder / "store", create=True)
    study, _, tokens = chat_study(folder)
    make_study(store, study)
    return store, study, tokens


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
