"""One row of a data file as text to model (corpora) or as a prompt and its target (tasks).

Five layouts are known, told apart by their fields: `text`; `inputs`/`targets`; `instruction`/`input`/`output`;
`question`/`answer`[/`support`]; `conversations`. Other fields (`id`, `source`, ...) are carried and ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LAYOUTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "text": (("text",), ()),
    "inputs/targets": (("inputs", "targets"), ()),
    "instruction[/input]/output": (("instruction", "output"), ("input",)),
    "question/answer[/support]": (("question", "answer"), ("support",)),
    "conversations": (("conversations",), ()),
}
"""Layout name to its required and optional fields."""


@dataclass(frozen=True)
class Example:
    """A prompt and the target that follows it with no separator (nightingal3/litgpt `data/base.py`)."""

    prompt: str
    target: str


def as_text(row: Mapping[str, Any], where: str) -> str:
    """The document of a corpus row.

    Inputs and targets are joined by a blank line, as the paper's FLAN is; the other layouts by a line
    break, with `support` and `input` after a space as in the tasks.

    Args:
        row: one row of a data file.
        where: how a message names the row, best `file:line`.

    Raises:
        ValueError: a field is missing, of the wrong type or no Unicode text, or the fields fit several layouts.
    """
    layout = _layout_of(row, where, tuple(LAYOUTS))
    if layout == "text":
        return row["text"]
    if layout == "inputs/targets":
        return f"{row['inputs']}\n\n{row['targets']}"
    if layout == "conversations":
        return "\n\n".join(row["conversations"])
    example = _prompt_and_target(row, layout)
    return f"{example.prompt}\n{example.target}"


def as_example(row: Mapping[str, Any], where: str) -> Example:
    """The prompt and target of a task row (nightingal3/litgpt `data/base.py`).

    Question to answer (GSM8K); question, space, support to answer (SciQ); first turn to all later turns joined without
    a separator (LIMA); instruction, space, input to output; inputs to targets.

    Raises:
        ValueError: a field is missing, of the wrong type, no Unicode text or an empty target, or the fields fit several
            layouts.
    """
    layout = _layout_of(row, where, tuple(name for name in LAYOUTS if name != "text"))
    example = _prompt_and_target(row, layout)
    if not example.target:
        raise ValueError(f"{where}: the target is empty ({layout}); allowed: a target of at least one character.")
    return example


def _prompt_and_target(row: Mapping[str, Any], layout: str) -> Example:
    if layout == "inputs/targets":
        return Example(row["inputs"], row["targets"])
    if layout == "conversations":
        return Example(row["conversations"][0], "".join(row["conversations"][1:]))
    if layout == "question/answer[/support]":
        return Example(_with_more(row["question"], row.get("support")), row["answer"])
    return Example(_with_more(row["instruction"], row.get("input")), row["output"])


def _with_more(prompt: str, more: str | None) -> str:
    return f"{prompt} {more}" if more else prompt


def _layout_of(row: Mapping[str, Any], where: str, allowed: tuple[str, ...]) -> str:
    fitting = [name for name in allowed if all(field in row for field in LAYOUTS[name][0])]
    if len(fitting) != 1:
        found = ", ".join(row) or "no fields"
        trouble = f"fields fit several layouts ({', '.join(fitting)})" if fitting else f"fields found: {found}"
        raise ValueError(f"{where}: {trouble}; allowed: exactly one of {'; '.join(allowed)}.")
    layout = fitting[0]
    required, optional = LAYOUTS[layout]
    if layout == "conversations":
        turns = row["conversations"]
        if not isinstance(turns, list) or len(turns) < 2 or not all(isinstance(turn, str) for turn in turns):
            raise ValueError(
                f"{where}: field 'conversations' holds {turns!r:.80}; allowed: a list of at least two turns, each text."
            )
        for turn in turns:
            _require_unicode(turn, layout, where)
        return layout
    for field in (*required, *(name for name in optional if row.get(name) is not None)):
        if not isinstance(row[field], str):
            raise ValueError(f"{where}: field '{field}' holds {type(row[field]).__name__}; allowed: text.")
        _require_unicode(row[field], field, where)
    return layout


def _require_unicode(text: str, field: str, where: str) -> None:
    """JSON can write half of a surrogate pair, which is no character: no tokenizer reads it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where}: field '{field}' holds {text[error.start]!a} at character {error.start + 1}, half of a surrogate "
            "pair; allowed: Unicode text. Write the character whole, or leave it out."
        ) from None
