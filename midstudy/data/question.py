"""Questions: conversations whose last reply is one of several choices, and the file beside a shard that keeps them.

A row with `messages` may have `choices`, a list of alternative last replies with the right one among them, and then a
`subject`. A shard with such conversations has a file `<split>-00000.choices` with one JSON object for each of them: `item`
(its place in the shard), `choices`, `answer` (the place of the right one), and `subject` if it has one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from midstudy.data.conversation import Piece, Turn, malformed, rendered, text_field

QUESTION_FIELDS = ("choices", "subject")
"""Fields of a row beside its messages."""


class Question(NamedTuple):
    """The alternative replies, the place of the right one, and the subject; `None` if the row has none."""

    choices: tuple[str, ...]
    answer: int
    subject: str | None

    def line(self, item: int) -> str:
        """Return the line of item number `item` in a shard's file."""
        stated = {"item": item, "choices": self.choices, "answer": self.answer}
        return json.dumps(stated if self.subject is None else {**stated, "subject": self.subject}, ensure_ascii=False) + "\n"


class Asked(NamedTuple):
    """The pieces of a conversation, and its question."""

    pieces: tuple[Piece, ...]
    question: Question


def as_question(row: Mapping[str, Any], turns: Sequence[Turn], where: str) -> Question | None:
    """Return the question of a row whose messages are `turns`; `None` if it has no choices.

    Args:
        where: how messages name the row, ideally `file:line`.

    Raises:
        ValueError: the choices are not two distinct texts or more, the last reply is not among them or is more than text, or
            the subject is not text.
    """
    choices, subject = (row.get(name) for name in QUESTION_FIELDS)
    if choices is None:
        return None
    if not isinstance(choices, list) or len(choices) < 2:
        raise malformed(where, "choices", "a list of two replies or more", choices)
    texts = tuple(text_field(choice, where, f"choices[{number}]") for number, choice in enumerate(choices))
    if "" in texts or len(set(texts)) < len(texts):
        raise malformed(where, "choices", "distinct replies of at least one character", choices)
    reply = turns[-1].parts
    if any(kind != "text" for kind, _ in reply):
        raise malformed(where, "messages", "a last reply of text alone, since the row has choices", reply)
    if (right := "".join(text for _, text in reply)) not in texts:
        raise malformed(where, "choices", f"the last reply, {right!r:.40}, among them", choices)
    if subject is not None and not text_field(subject, where, "subject"):
        raise malformed(where, "subject", "text of at least one character, or no subject", repr(subject))
    return Question(texts, texts.index(right), subject)


def document_of_row(row: Mapping[str, Any]) -> tuple[Piece, ...] | Asked:
    """Return what is encoded of a conversation's row (`rows.with_fields`)."""
    pieces = rendered(row["messages"])
    return Asked(pieces, row["question"]) if "question" in row else pieces


def read_questions(path: Path) -> dict[int, Question]:
    """Return the questions of a shard by the place of their items."""
    lines = map(json.loads, path.read_text("utf-8").splitlines())
    return {line["item"]: Question(tuple(line["choices"]), line["answer"], line.get("subject")) for line in lines}
