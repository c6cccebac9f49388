"""Questions: choices and subjects of conversations, kept in a file beside their shard and nowhere else."""

from __future__ import annotations

import hashlib
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from builders.small_study import WORDS, write_split

from midstudy.data.conversation import as_turns
from midstudy.data.question import Question, document_of_row
from midstudy.data.rows import as_example, as_text, with_fields
from midstudy.data.shards import read_index
from midstudy.data.shards import write_split as write_shards
from midstudy.data.source import load_rows, resolve_source
from midstudy.data.split_rows import ChangedTextError
from midstudy.data.splits import split_of_row
from midstudy.data.tokenizer import save_tokenizer, train_tokenizer
from midstudy.data.tokens import read_split
from midstudy.execute.data import make_tokens
from midstudy.recipe import Corpus, Source, Task, Tokenizer
from midstudy.recipe.data import CONVERSATION_TOKENS, TokenizedData

FIELDS = (("messages", "messages"),)


@pytest.fixture(scope="module")
def tokenizer() -> tokenizers.Tokenizer:
    return train_tokenizer([" ".join(WORDS) * 9], vocab_size=290, special_tokens=CONVERSATION_TOKENS)


def asked(reply: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": reply}], **fields}


def drawn_rows(number: int) -> list[dict[str, Any]]:
    """Return conversations, about half of them with choices, some of these with a subject."""
    rng, rows = random.Random(2), []
    for _ in range(number):
        choices = rng.sample(WORDS, rng.randint(2, 5))
        fields: dict[str, Any] = {"choices": choices} if rng.random() < 0.5 else {}
        if fields and rng.random() < 0.7:
            fields["subject"] = rng.choice(["é", "law"])
        rows.append(asked(rng.choice(choices), **fields))
    return rows


def named(row: dict[str, Any]) -> dict[str, Any]:
    return with_fields(row, FIELDS, "row")


@pytest.mark.parametrize(
    ("row", "field", "message"),
    [
        (asked("a", choices="ab"), "choices", "a list of two replies or more, got ab"),
        (asked("a", choices=["a"]), "choices", "a list of two replies or more, got ['a']"),
        (asked("a", choices=["a", 3]), "choices[1]", "text, got 3"),
        (asked("a", choices=["a", "\ud800"]), "choices[1]", "half of a surrogate pair"),
        (asked("a", choices=["a", "b", "a"]), "choices", "distinct replies"),
        (asked("a", choices=["a", ""]), "choices", "at least one character"),
        (asked("c", choices=["a", "b"]), "choices", "the last reply, 'c', among them, got ['a', 'b']"),
        (asked("a", choices=["a", "b"], subject=""), "subject", "text of at least one character"),
        (asked("a", choices=["a", "b"], subject=7), "subject", "text, got 7"),
        (
            asked([{"type": "python", "text": "1"}, {"type": "text", "text": "a"}], choices=["a", "b"]),
            "messages",
            "a last reply of text alone",
        ),
    ],
)
def test_a_malformed_question_is_refused_with_file_line_and_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: dict[str, Any], field: str, message: str
) -> None:
    monkeypatch.setenv("MIDSTUDY_CACHE", str(tmp_path / "cache"))
    for split in ("train", "test", "validation"):
        write_split(tmp_path / "sft" / "quiz", split, [asked("a", choices=["a", "b"]), *([row] if split == "train" else [])])
    source = resolve_source(str(tmp_path), name="quiz", folder="sft/quiz", is_task=True)
    with pytest.raises(ValueError, match=re.escape(f"train.jsonl:2: field '{field}': expected ")) as error:
        list(load_rows(source, split="train", is_task=True))
    assert message in str(error.value)


def test_the_right_choice_is_the_last_reply_whole() -> None:
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    row = named(asked(parts, choices=["a", "b", "a b"], subject="law"))
    assert row["question"] == Question(("a", "b", "a b"), 2, "law")
    assert "question" not in named(asked("a", subject="law"))
    assert "question" not in named(asked("a", choices=None))


def test_choices_change_neither_texts_nor_tokens_nor_splits(tmp_path: Path, tokenizer: tokenizers.Tokenizer) -> None:
    rows = drawn_rows(80)
    without = [{"messages": row["messages"]} for row in rows]
    for name, given in (("with", rows), ("without", without)):
        (tmp_path / name).mkdir()
        write_shards(tokenizer, [document_of_row(named(row)) for row in given], tmp_path / name, "train", shard_bytes=300)
    own, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.suffix != ".json"}
        for name in ("with", "without")
    )
    assert len(other) > 20
    assert {name: own.get(name) for name in other} == other
    assert {Path(name).suffix for name in own.keys() - other.keys()} == {".choices"}
    for row, plain in zip(rows, without, strict=True):
        assert as_text(named(row), "") == as_text(named(plain), "")
        assert as_example(named(row), "") == as_example(named(plain), "")
        places = {split_of_row(named(one), carved=("dev", "test"), is_task=False) for one in (row, plain)}
        assert len(places) == 1


def test_each_item_keeps_its_question_over_shards_and_digests_cover_the_file(
    tmp_path: Path, tokenizer: tokenizers.Tokenizer
) -> None:
    rows = drawn_rows(3_000)
    write_shards(tokenizer, [document_of_row(named(row)) for row in rows], tmp_path, "test", shard_bytes=110_000)
    split, index = read_split(tmp_path, "test"), read_index(tmp_path, "test")
    assert index is not None
    assert len(index.shards) > 2
    expected = {
        item: Question(tuple(row["choices"]), row["choices"].index(row["messages"][-1]["content"]), row.get("subject"))
        for item, row in enumerate(rows)
        if "choices" in row
    }
    assert split.questions == expected
    assert max(shard.num_documents for shard in index.shards) > 1_024  # more than one chunk is tokenised at a time
    for number, shard in enumerate(index.shards):
        name = f"test-{number:05d}.choices"
        assert shard.sha256[name] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    first = json.loads((tmp_path / "test-00000.choices").read_text("utf-8").splitlines()[0])
    assert first == {"item": min(expected), "choices": [*expected[min(expected)].choices], "answer": first["answer"]} | (
        {"subject": first["subject"]} if "subject" in first else {}
    )


def test_a_shard_of_other_choices_is_not_taken_over(tmp_path: Path, tokenizer: tokenizers.Tokenizer) -> None:
    rows = drawn_rows(60)
    changed = [row | {"choices": [*reversed(row["choices"])]} if "choices" in row else row for row in rows]
    for name in ("first", "again", "changed"):
        (tmp_path / name).mkdir()

    def write(name: str, given: list[dict[str, Any]]) -> None:
        documents = [document_of_row(named(row)) for row in given]
        write_shards(tokenizer, documents, tmp_path / name, "train", previous=[tmp_path / "first"], shard_bytes=300)

    write("first", rows)
    write("again", rows)
    assert read_split(tmp_path / "again", "train").questions == read_split(tmp_path / "first", "train").questions != {}
    with pytest.raises(ChangedTextError, match="different text"):
        write("changed", changed)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("is_task", [True, False])
def test_the_stage_of_tokens_keeps_choices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: tokenizers.Tokenizer, ending: str, is_task: bool
) -> None:
    import pyarrow
    from pyarrow import parquet

    monkeypatch.setenv("MIDSTUDY_CACHE", str(tmp_path / "cache"))
    rows = [row | {"id": 1} for row in drawn_rows(30)]
    for split in ("train", "validation", "test"):
        if ending == "jsonl":
            write_split(tmp_path / "quiz", split, rows)
        else:
            (tmp_path / "quiz").mkdir(exist_ok=True)
            parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "quiz" / f"{split}.parquet")
    source = resolve_source(str(tmp_path), name="quiz", folder="quiz", is_task=is_task)
    assert isinstance(source, Source)
    assert source.is_conversations
    data = Task(name="quiz", source=source) if is_task else Corpus(name="quiz", source=source)
    general = Corpus(name="general", source=Source(kind="files", part="", revision="r"))
    recipe = Tokenizer(corpus=general, vocab_size=290, max_bytes=1, special_tokens=CONVERSATION_TOKENS)
    for name in ("tokenizer", "tokens"):
        (tmp_path / name).mkdir()
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    make_tokens(TokenizedData(data=data, tokenizer=recipe), tmp_path / "tokenizer", tmp_path / "tokens")
    questions = read_split(tmp_path / "tokens", "test").questions
    assert {item: [*question.choices] for item, question in questions.items()} == {
        item: row["choices"] for item, row in enumerate(rows) if "choices" in row
    }
    np.testing.assert_array_equal(
        [question.subject for question in questions.values()], [row.get("subject") for row in rows if "choices" in row]
    )


def test_turns_are_as_without_choices() -> None:
    row = asked("a", choices=["a", "b"])
    assert named(row)["messages"] == as_turns(row["messages"], "")
