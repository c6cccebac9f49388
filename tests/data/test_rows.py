"""Rows of data files: five layouts become text, or a prompt and its target; others are rejected with their fields."""

from __future__ import annotations

import json

import pytest

from midstudy.data.rows import Example, as_example, as_text


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"text": "A page.", "id": 3}, "A page."),
        ({"inputs": "Translate: chat", "targets": "cat"}, "Translate: chat\n\ncat"),
        ({"instruction": "Answer.", "input": "2 + 2?", "output": "4"}, "Answer. 2 + 2?\n4"),
        ({"instruction": "Say hello.", "output": "Hello"}, "Say hello.\nHello"),
        ({"question": "Who?", "answer": "Me", "support": "I did it."}, "Who? I did it.\nMe"),
        ({"conversations": ["Hi", "Hello", "How are you?"]}, "Hi\n\nHello\n\nHow are you?"),
    ],
)
def test_every_layout_is_a_document_of_a_corpus(row: dict, text: str) -> None:
    assert as_text(row, "f:1") == text


@pytest.mark.parametrize(
    ("row", "example"),
    [
        ({"question": "Q?", "answer": "A"}, Example("Q?", "A")),
        ({"question": "Q?", "answer": "A", "support": ""}, Example("Q?", "A")),
        ({"question": "Q?", "answer": "A", "support": "S."}, Example("Q? S.", "A")),
        ({"conversations": ["Hi", "Hello. ", "Bye."]}, Example("Hi", "Hello. Bye.")),
        ({"instruction": "Do.", "input": "This", "output": "Done"}, Example("Do. This", "Done")),
        ({"inputs": "In", "targets": "Out", "id": "x"}, Example("In", "Out")),
    ],
)
def test_a_task_row_is_a_prompt_and_a_target_joined_as_in_the_paper(row: dict, example: Example) -> None:
    assert as_example(row, "f:1") == example


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "Q?", "reply": "A"}, ["data.jsonl:7", "question, reply", "question/answer"]),
        ({}, ["data.jsonl:7", "no fields"]),
        ({"text": "x"}, ["data.jsonl:7", "got text."]),
        ({"question": "Q?", "answer": 4}, ["data.jsonl:7", "'answer'", "int"]),
        ({"question": "Q?", "answer": ""}, ["data.jsonl:7", "got an empty one"]),
        ({"conversations": ["alone"]}, ["data.jsonl:7", "conversations", "two turns"]),
        ({"conversations": "Hi"}, ["data.jsonl:7", "conversations"]),
        (
            {"question": "Q", "answer": "A", "inputs": "I", "targets": "T"},
            ["data.jsonl:7", "got fields of several (", "inputs/targets", "question/answer"],
        ),
    ],
)
def test_a_row_that_is_not_a_task_item_is_rejected_with_its_line_and_fields(row: dict, words: list[str]) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        as_example(row, "data.jsonl:7")
    for word in words:
        assert word in str(error.value)


def test_a_corpus_row_without_known_fields_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"c\.jsonl:2: expected the fields of exactly one of text; .*, got body\."):
        as_text({"body": "x"}, "c.jsonl:2")


@pytest.mark.parametrize(
    ("line", "field", "character"),
    [
        (r'{"text": "fine \ud83d"}', "text", 6),
        (r'{"question": "Q?", "answer": "\udc00", "support": null}', "answer", 1),
        (r'{"instruction": "Do.", "input": "a\ud800b", "output": "Done"}', "input", 2),
        (r'{"conversations": ["Hi \ud83d", "\ude00 Hello"]}', "conversations", 4),
    ],
)
def test_half_of_a_surrogate_pair_is_rejected_with_its_row_and_field(line: str, field: str, character: int) -> None:
    read = as_text if field == "text" else as_example
    with pytest.raises(ValueError, match=r"expected Unicode text, got .*surrogate pair") as error:
        read(json.loads(line), "data.jsonl:7")
    assert not isinstance(error.value, UnicodeError)
    assert str(error.value).startswith(f"data.jsonl:7: field '{field}': expected Unicode text, got '\\ud")
    assert f"at character {character}," in str(error.value)


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert as_text(json.loads(r'{"text": "fine \ud83d\ude00"}'), "f:1") == "fine \U0001f600"
