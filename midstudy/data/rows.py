"""Convert a row of a data file to a document (corpora) or to a prompt and its target (tasks).

Six layouts are known, recognised by their fields: `text`; `inputs`/`targets`; `instruction`/`input`/`output`;
`question`/`answer`[/`support`]; `conversations`; and, if none of these fits, `prompt`/`completion`. Other fields (`id`,
`source`, ...) are ignored. A source may also declare which of its fields are `text`, or `prompt` and `completion`, or that
its rows are conversations, whose field of messages then holds their turns (`conversation.py`), beside a `question` if the
row has choices (`question.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from midstudy.data.conversation import as_turns, plain_text
from midstudy.data.question import QUESTION_FIELDS, as_question
from midstudy.recipe.data import MESSAGES_FIELDS, PAIR_FIELDS

LAYOUTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "text": (("text",), ()),
    "inputs/targets": (("inputs", "targets"), ()),
    "instruction[/input]/output": (("instruction", "output"), ("input",)),
    "question/answer[/support]": (("question", "answer"), ("support",)),
    "conversations": (("conversations",), ()),
}
"""Maps the name of a layout to its required and optional fields."""

_FOR_TEXT = tuple(LAYOUTS)
_FOR_TASKS = tuple(name for name in LAYOUTS if name != "text")

_PAIR = "prompt/completion"
"""Recognised only if no layout fits, so that rows read before this layout was known are read as they were."""


@dataclass(frozen=True)
class Example:
    """A prompt and the target that follows it without a separator (nightingal3/litgpt `data/base.py`)."""

    prompt: str
    target: str


def as_text(row: Mapping[str, Any], where: str) -> str:
    """Return the document of a corpus row.

    Inputs and targets, and the turns of a conversation, are joined by a blank line, like FLAN in the paper. Other layouts
    are joined by a line break, with `support` and `input` after a space, as in tasks; a completion follows its prompt
    directly.

    Args:
        row: one row of a data file.
        where: how messages name the row, ideally `file:line`.

    Raises:
        ValueError: a field is missing, has the wrong type or is not Unicode text, or the fields fit several layouts.
    """
    if has_turns(row):
        return plain_text(row["messages"])
    layout = _layout_of(row, where, _FOR_TEXT)
    if layout == "text":
        return row["text"]
    if layout == "inputs/targets":
        return f"{row['inputs']}\n\n{row['targets']}"
    if layout == "conversations":
        return "\n\n".join(row["conversations"])
    example = _prompt_and_target(row, layout)
    return f"{example.prompt}{'' if layout == _PAIR else chr(10)}{example.target}"


def as_example(row: Mapping[str, Any], where: str) -> Example:
    """Return the prompt and target of a task row (nightingal3/litgpt `data/base.py`).

    Question → answer (GSM8K); question, space, support → answer (SciQ); first turn → all later turns, joined without a
    separator (LIMA); instruction, space, input → output; inputs → targets; prompt → completion. Of a conversation, the first
    message and the text after it, for readers and similarities; training reads its turns.

    Raises:
        ValueError: a field is missing, has the wrong type or is not Unicode text, the target is empty, or the fields fit
            several layouts.
    """
    if has_turns(row):
        first, *later = row["messages"]
        return Example(plain_text([first]), plain_text(later))
    layout = _layout_of(row, where, _FOR_TASKS)
    example = _prompt_and_target(row, layout)
    if not example.target:
        raise ValueError(
            f"{where}: expected a target of at least one character, got an empty one ({layout}). Remove the row, or give it "
            "a target."
        )
    return example


def has_turns(row: Mapping[str, Any]) -> bool:
    """Return whether the row is a conversation of a source that declares its messages (`with_fields`)."""
    return isinstance(row.get("messages"), tuple)


def is_undeclared_conversation(row: Mapping[str, Any]) -> bool:
    """Return whether a row has messages, and the fields of no layout."""
    return "messages" in row and not _fitting(tuple(row), _FOR_TEXT)


def fields_to_read(fields: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Return the names of the fields that `with_fields` reads: those that a row must have, and those that it may have."""
    is_conversation = tuple(name for name, _ in fields) == MESSAGES_FIELDS
    return [field for _, field in fields], [*QUESTION_FIELDS] if is_conversation else []


def with_fields(row: Mapping[str, Any], fields: Sequence[tuple[str, str]], where: str) -> dict[str, Any]:
    """Return the row under the names of a layout, with the declared fields alone; messages as the turns that they are.

    Of a conversation with choices, `question` holds them.

    Args:
        fields: pairs of a layout's name (`text`, `prompt`, `completion`, `messages`) and the source's field that holds it.

    Raises:
        ValueError: a declared field is missing, is not text or not a conversation, or a conversation's choices are
            malformed.
    """
    for name, field in fields:
        if field not in row:
            raise ValueError(
                f"{where}: expected field '{field}', declared by {name}={field}, got {', '.join(row) or 'no fields'}. "
                "Declare the right field, or correct or remove the row."
            )
        if name in MESSAGES_FIELDS:
            turns = as_turns(row[field], where)
            question = as_question(row, turns, where)
            return {name: turns} if question is None else {name: turns, "question": question}
        if not isinstance(row[field], str):
            raise ValueError(
                f"{where}: field '{field}' ({name}): expected text, got {_kind(row[field])}. Correct or remove the row."
            )
    return {name: row[field] for name, field in fields}


def _prompt_and_target(row: Mapping[str, Any], layout: str) -> Example:
    if layout == "inputs/targets":
        return Example(row["inputs"], row["targets"])
    if layout == _PAIR:
        return Example(row["prompt"], row["completion"])
    if layout == "conversations":
        return Example(row["conversations"][0], "".join(row["conversations"][1:]))
    if layout == "question/answer[/support]":
        return Example(_with_more(row["question"], row.get("support")), row["answer"])
    return Example(_with_more(row["instruction"], row.get("input")), row["output"])


def _with_more(prompt: str, more: str | None) -> str:
    return f"{prompt} {more}" if more else prompt


def _layout_of(row: Mapping[str, Any], where: str, allowed: tuple[str, ...]) -> str:
    fitting = _fitting(tuple(row), allowed)
    if len(fitting) != 1:
        got = f"fields of several ({', '.join(fitting)})" if fitting else ", ".join(row) or "no fields"
        declared = "text=FIELD" if "text" in allowed else "prompt=FIELD,completion=FIELD"
        if "messages" in row:
            declared = "messages=FIELD"
        raise ValueError(
            f"{where}: expected the fields of exactly one of {'; '.join((*allowed, _PAIR))}, got {got}. Declare the fields: "
            f"--data NAME=SOURCE,{declared}."
        )
    layout = fitting[0]
    required, optional = LAYOUTS.get(layout, (PAIR_FIELDS, ()))
    if layout == "conversations":
        turns = row["conversations"]
        if not isinstance(turns, list) or len(turns) < 2 or not all(isinstance(turn, str) for turn in turns):
            raise ValueError(
                f"{where}: field 'conversations': expected a list of at least two turns, each text, got {turns!r:.80}."
            )
        for turn in turns:
            _require_unicode(turn, layout, where)
        return layout
    for field in (*required, *(name for name in optional if row.get(name) is not None)):
        if not isinstance(row[field], str):
            raise ValueError(f"{where}: field '{field}': expected text, got {_kind(row[field])}. Correct or remove the row.")
        _require_unicode(row[field], field, where)
    return layout


@lru_cache(maxsize=256)  # the rows of a file have the same fields
def _fitting(fields: tuple[str, ...], allowed: tuple[str, ...]) -> tuple[str, ...]:
    found = tuple(name for name in allowed if all(field in fields for field in LAYOUTS[name][0]))
    return found or ((_PAIR,) if all(field in fields for field in PAIR_FIELDS) else ())


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def _require_unicode(text: str, field: str, where: str) -> None:
    """Reject half of a surrogate pair: JSON can hold one, but it is not a character, and tokenizers cannot read it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where}: field '{field}': expected Unicode text, got {text[error.start]!a} at character {error.start + 1}, "
            "half of a surrogate pair. Write the whole character, or remove it."
        ) from None
