"""The collection of conversations: which parts there are, and how test items are kept out of their training rows."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from midstudy.data.builtin.collection import Collection, Made
from midstudy.data.builtin.packages import ABILITIES_LIST
from midstudy.data.conversation import as_turns, plain_text
from midstudy.data.overlap import TestItems

PREPARATION = 1
"""Increase by hand, then run `python -m midstudy.data.builtin.freeze abilities`, when the text made from the same packages
changes. Parts of `READ_TEXT` also change with the text that they read."""

CONVERSATIONS = (
    "spelling", "spelling_bee", "sums", "calculation", "choices", "choices_cloze", "chat", "identity", "mmlu", "prompts"
)  # fmt: skip
READ_ONLY = ("prompts",)
"""Parts whose replies are read and not scored: training text may ask the same."""

TEST_ONLY = ("mmlu", *READ_ONLY)
"""Parts with a test split alone: of these nothing may be trained on."""

READ_TEXT = {"choices": ("science_qa",), "choices_cloze": ("science_qa",), "chat": ("long_form", "instruction")}
"""The parts of text that parts are made from."""


def build(part: str) -> Made:
    """Return the rows of a part, without those outside test that ask or hold what its test split asks."""
    rows: list[tuple[str, dict[str, Any]]] = list(import_module(f"{ABILITIES.modules}.{part}").rows())
    items = TestItems(question for split, row in rows if split == "test" for question in questions(row))
    kept = [(split, row) for split, row in rows if split == "test" or not _overlaps(row, items)]
    return kept, len(rows) - len(kept)


def questions(row: dict[str, Any]) -> list[str]:
    """Return what the user asks, in order; of multiple choice the question without the choices, which questions share."""
    asked = [message["content"] for message in row["messages"] if message["role"] == "user"]
    return [text.partition("\n- ")[0].removeprefix("Multiple Choice question: ") for text in asked]


def _overlaps(row: dict[str, Any], items: TestItems) -> bool:
    return any(map(items.overlaps, (*questions(row), plain_text(as_turns(row["messages"], "row")))))


ABILITIES = Collection(
    modules="midstudy.data.builtin.abilities",
    list_path=ABILITIES_LIST,
    parts=CONVERSATIONS,
    preparation=PREPARATION,
    build=build,
)
