"""Choices compared by a model: scores against a loop over single sequences, ties, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from builders.small_recipes import task
from builders.training_runs import begin
from pyarrow import parquet

from midstudy.data.question import document_of_row
from midstudy.data.rows import with_fields
from midstudy.data.shards import write_split
from midstudy.data.tokenizer import train_tokenizer
from midstudy.data.tokens import TokenizedSplit, read_split
from midstudy.evaluate.model_cache import load_model
from midstudy.execute.evaluation import evaluate_state
from midstudy.recipe import Choices, Source
from midstudy.recipe.choices import CHOICES_FILE
from midstudy.recipe.data import CONVERSATION_TOKENS
from midstudy.recipe.errors import RecipeError

QUIZ = replace(task("quiz"), source=Source(kind="files", part="", revision="r", fields=(("messages", "messages"),)))
LETTERS = Choices(data=QUIZ, split="test", by="letters", seq_len=48, max_sequences=100)
CLOZE = replace(LETTERS, by="cloze")


@pytest.fixture(scope="module")
def tokenizer() -> tokenizers.Tokenizer:
    return train_tokenizer(["What is it? It is a day in a year. " * 20], vocab_size=280, special_tokens=CONVERSATION_TOKENS)


def row(question: str, choices: Sequence[str], answer: int, subject: str | None = None) -> dict[str, Any]:
    said = [{"role": "user", "content": question}, {"role": "assistant", "content": choices[answer]}]
    return {"messages": said, "choices": [*choices], "subject": subject}


def split_of(folder: Path, tokenizer: tokenizers.Tokenizer, rows: Sequence[dict[str, Any]]) -> TokenizedSplit:
    documents = [document_of_row(with_fields(one, (("messages", "messages"),), "row")) for one in rows]
    write_split(tokenizer, documents, folder, "test")
    return read_split(folder, "test")


def evaluated(
    folder: Path, evaluation: Choices, tokenizer: tokenizers.Tokenizer, rows: Sequence[dict[str, Any]], *, head: float = 1.0
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the metrics and the published lines of an untrained model whose head's weights are multiplied by `head`."""
    run = begin()
    with torch.no_grad():
        run.model.head.weight.mul_(head)
    run.save(folder / "checkpoint", with_optimizer=False)
    split = split_of(folder, tokenizer, rows)
    metrics = evaluate_state(
        evaluation, checkpoint=folder / "checkpoint", split=split, tokenizer=lambda: tokenizer, folder=folder
    )
    return metrics, [json.loads(line) for line in (folder / CHOICES_FILE).read_text("utf-8").splitlines()]


ROWS = [
    row("What is it?", ["a", "b", "c"], 1, "x"),
    row("It is a day in a year. What is it?", ["d", "a"], 0),
    row("", ["e", "b"], 1, "x"),
    row("<|user_end|> 汉", ["q", "i", "t", "y", "w"], 4, "é"),
]
LONG_ROWS = [
    row("What is it?", ["a day", "It is in a year.", "é"], 1),
    row("a year", ["<|assistant_end|>", "in", "is it a day"], 2),
    row("it", ["a", "a day in a year"], 0),
]


@pytest.mark.parametrize(("evaluation", "rows"), [(LETTERS, ROWS), (CLOZE, ROWS), (CLOZE, LONG_ROWS)])
def test_scores_equal_those_of_each_sequence_alone(
    tmp_path: Path, tokenizer: tokenizers.Tokenizer, evaluation: Choices, rows: list[dict[str, Any]]
) -> None:
    metrics, lines = evaluated(tmp_path, evaluation, tokenizer, rows, head=20.0)
    model, name_of = load_model(tmp_path / "checkpoint"), tokenizer.token_to_id
    plain = json.loads(tokenizer.to_str()) | {"added_tokens": []}
    text_ids = tokenizers.Tokenizer.from_str(json.dumps(plain))
    right = []
    for line, one in zip(lines, rows, strict=True):
        question = text_ids.encode(one["messages"][0]["content"]).ids
        prompt = [0, name_of("<|user_start|>"), *question, name_of("<|user_end|>"), name_of("<|assistant_start|>")]
        scores = []
        for choice in one["choices"]:
            reply = [*text_ids.encode(choice).ids, name_of("<|assistant_end|>")]
            with torch.no_grad():
                logits = model(torch.tensor([prompt + reply]))[0].double()
            if evaluation.by == "letters":
                scores.append(float(logits[len(prompt) - 1, reply[0]]))
            else:
                nats = [float(logits[len(prompt) - 1 + i].log_softmax(0)[token]) for i, token in enumerate(reply)]
                scores.append(sum(nats) / len(choice.encode()))
        assert line["scores"] == pytest.approx(scores, rel=1e-4)
        assert line["chosen"] == int(np.argmax(scores))
        right.append(line["chosen"] == one["choices"].index(one["messages"][1]["content"]))
    assert metrics["accuracy"] == np.mean(right)
    assert 0 < metrics["accuracy"] < 1
    chance = np.mean([1 / len(one["choices"]) for one in rows])
    assert metrics["centred_accuracy"] == pytest.approx((np.mean(right) - chance) / (1 - chance))
    items = parquet.read_table(tmp_path / "items.parquet").to_pydict()
    assert (items["item"], items["right"]) == ([*range(len(rows))], right)
    if rows is ROWS:
        assert items["subject"] == ["x", None, "x", "é"]
        assert metrics["accuracy_by_subject"] == {"x": (right[0] + right[2]) / 2, "é": right[3]}
    else:
        assert "subject" not in items


@pytest.mark.parametrize("by", ["letters", "cloze"])
def test_the_first_of_equal_choices_is_chosen(tmp_path: Path, tokenizer: tokenizers.Tokenizer, by: str) -> None:
    metrics, lines = evaluated(tmp_path, replace(LETTERS, by=by), tokenizer, ROWS, head=0.0)
    assert [line["chosen"] for line in lines] == [0, 0, 0, 0]
    assert metrics["accuracy"] == 0.25


def test_a_state_without_finite_scores_has_no_accuracy(tmp_path: Path, tokenizer: tokenizers.Tokenizer) -> None:
    metrics, lines = evaluated(tmp_path, LETTERS, tokenizer, ROWS, head=math.inf)
    assert math.isnan(metrics["accuracy"])
    assert math.isnan(metrics["centred_accuracy"])
    assert "accuracy_by_subject" not in metrics
    assert {(line["scores"], line["chosen"], line["right"]) for line in lines} == {(None, None, None)}


def test_questions_without_room_are_left_out_and_counted(tmp_path: Path, tokenizer: tokenizers.Tokenizer) -> None:
    """A letter needs room for its prompt, a reply for all its tokens but the last, which nothing has to follow."""
    lengths = [len(one) for one in (tokenizer.encode(str(one["messages"][0]["content"])).ids for one in ROWS)]
    room = lengths[1] + 4
    for seq_len, without in ((room, 0), (room - 1, 1)):
        folder = tmp_path / str(seq_len)
        folder.mkdir()
        metrics, _ = evaluated(folder, replace(LETTERS, seq_len=seq_len), tokenizer, ROWS[:3])
        assert metrics["questions_without_room"] + metrics["left_out"]["test"].get("no_target", 0) == without
        assert metrics["num_questions"] == 3 - without
    prompt = len(tokenizer.encode("it").ids) + 4
    reply = len(tokenizer.encode("a day in a year").ids) + 1
    for seq_len, kept in ((prompt + reply - 1, 2), (prompt + reply - 2, 1)):
        folder = tmp_path / f"cloze {seq_len}"
        folder.mkdir()
        rows = [LONG_ROWS[2], row("it", ["a", "i"], 0)]
        metrics, _ = evaluated(folder, replace(CLOZE, seq_len=seq_len), tokenizer, rows)
        assert (metrics["num_questions"], metrics["questions_without_room"]) == (kept, 2 - kept)


@pytest.mark.parametrize(
    ("evaluation", "rows", "message"),
    [
        (
            LETTERS,
            LONG_ROWS,
            r"\.by: expected choices of a single token, .* got 'a day in a year' of 5 tokens in item 2 of test",
        ),
        (
            LETTERS,
            [*ROWS[:2], {"messages": ROWS[0]["messages"]}],
            r"\.data: .* none in 1 of the 3 items of test, .* item 2\.",
        ),
        (replace(CLOZE, seq_len=6), [row("", ["a", "a year in a day"], 0)], r"\.seq_len: .* at most 6 tokens .* among 1\."),
    ],
)
def test_what_cannot_be_compared_is_refused_with_its_item(
    tmp_path: Path, tokenizer: tokenizers.Tokenizer, evaluation: Choices, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(ValueError, match=r"choices\.quiz" + message):
        evaluated(tmp_path, evaluation, tokenizer, rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": task("pairs")}, r"choices\.pairs\.data: expected a task of conversations"),
        ({"by": "words"}, r"choices\.quiz\.by: expected one of letters, cloze"),
        ({"split": "all"}, r"choices\.quiz\.split"),
        ({"seq_len": 0}, r"choices\.quiz\.seq_len"),
        ({"max_sequences": 0}, r"choices\.quiz\.max_sequences"),
    ],
)
def test_a_recipe_that_cannot_be_is_an_error(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        replace(LETTERS, **change)


def test_the_cost_of_cloze_counts_every_choice() -> None:
    assert CLOZE.num_tokens == 4 * LETTERS.num_tokens == 4 * 48 * 100
