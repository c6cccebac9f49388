"""Read and render conversations: rows of messages as special tokens and text, with or without loss.

A row has `messages`, each with a `role` and a `content`. An optional `system` message comes first; then `user` and
`assistant` alternate, and the assistant has the last word. The content of a reply is text, or a list of parts
`{"type": "text" | "python" | "python_output", "text": ...}`: what is said, a call of the tool, and what it returned.

Rendered as karpathy/nanochat `tokenizer.py` does (`render_conversation`): the end of text begins a conversation; a system
message is put before the first user message with a blank line between; nothing but special tokens stands between texts.
The assistant's text, its tool calls and the end of its turn have loss; what the user or the tool wrote, and the token that
starts the assistant's turn, have none. Texts are read as they are, so one that spells a special token gives none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

from midstudy.recipe.data import CONVERSATION_TOKENS, END_OF_TEXT

(
    _USER_START,
    _USER_END,
    ASSISTANT_START,
    _ASSISTANT_END,
    _PYTHON_START,
    _PYTHON_END,
    _OUTPUT_START,
    _OUTPUT_END,
) = CONVERSATION_TOKENS

_PART_TYPES = ("text", "python", "python_output")


class Piece(NamedTuple):
    """A text, or the name of a special token, and whether its tokens have loss."""

    text: str
    is_special: bool
    has_loss: bool


class Turn(NamedTuple):
    """A user message with one part of type `text`, or a reply; each part is its type and its text."""

    role: str
    parts: tuple[tuple[str, str], ...]


def as_turns(messages: Any, where: str) -> tuple[Turn, ...]:
    """Return the turns of a row, a system message merged into the first one.

    Args:
        messages: the field `messages` of a row.
        where: how messages name the row, ideally `file:line`.

    Raises:
        ValueError: the roles do not alternate, a reply is empty, or a field is missing, has the wrong type or is not Unicode
            text.
    """
    if not isinstance(messages, list):
        raise malformed(where, "messages", "a list of messages", messages)
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise malformed(where, f"messages[{number}]", "an object with 'role' and 'content'", message)
    system = ""
    first = 0
    if messages and messages[0]["role"] == "system":
        system, first = f"{text_field(messages[0]['content'], where, 'messages[0].content')}\n\n", 1
    roles = [message["role"] for message in messages[first:]]
    if len(roles) < 2 or len(roles) % 2 or any(role != wanted for role, wanted in zip(roles, cycle(("user", "assistant")))):
        expected = "an optional system message, then user and assistant in turn, the assistant last"
        raise malformed(where, "messages", expected, ", ".join(str(message["role"]) for message in messages) or "no message")
    turns = []
    for number, message in enumerate(messages[first:], start=first):
        path = f"messages[{number}].content"
        if message["role"] == "user":
            turns.append(Turn("user", (("text", system + text_field(message["content"], where, path)),)))
            system = ""
        else:
            turns.append(Turn("assistant", tuple(_parts(message["content"], where, path))))
    return tuple(turns)


def rendered(turns: Sequence[Turn]) -> tuple[Piece, ...]:
    """Return the pieces of a conversation, in order."""
    pieces = [Piece(END_OF_TEXT, True, False)]
    for turn in turns:
        if turn.role == "user":
            pieces += (
                Piece(_USER_START, True, False),
                Piece(turn.parts[0][1], False, False),
                Piece(_USER_END, True, False),
            )
            continue
        pieces.append(Piece(ASSISTANT_START, True, False))
        for kind, text in turn.parts:
            if kind == "text":
                pieces.append(Piece(text, False, True))
            elif kind == "python":
                pieces += (Piece(_PYTHON_START, True, True), Piece(text, False, True), Piece(_PYTHON_END, True, True))
            else:
                pieces += (Piece(_OUTPUT_START, True, False), Piece(text, False, False), Piece(_OUTPUT_END, True, False))
        pieces.append(Piece(_ASSISTANT_END, True, True))
    return tuple(pieces)


def plain_text(turns: Sequence[Turn]) -> str:
    """Return the texts of a conversation without its marks, turns apart by a blank line: what a tokenizer is trained on."""
    return "\n\n".join("".join(text for _, text in turn.parts) for turn in turns)


def _parts(content: Any, where: str, path: str) -> Iterator[tuple[str, str]]:
    """Yield the parts of a reply.

    Raises:
        ValueError: as `as_turns`.
    """
    if isinstance(content, str):
        parts: Any = [{"type": "text", "text": text_field(content, where, path)}]
    elif isinstance(content, list) and content:
        parts = content
    else:
        raise malformed(where, path, "text, or a list of parts", content)
    for number, part in enumerate(parts):
        if not isinstance(part, Mapping) or part.get("type") not in _PART_TYPES:
            raise malformed(where, f"{path}[{number}]", f"a part of type {', '.join(_PART_TYPES)}", part)
        yield part["type"], text_field(part.get("text"), where, f"{path}[{number}].text")
    if not any(part["text"] for part in parts if part["type"] != "python_output"):
        raise malformed(where, path, "a reply of at least one character", content)


def text_field(value: Any, where: str, path: str) -> str:
    """Return the text of a row's field.

    Raises:
        ValueError: it is not text, or not Unicode.
    """
    if not isinstance(value, str):
        raise malformed(where, path, "text", value)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise malformed(where, path, "Unicode text", f"{value[error.start]!a}, half of a surrogate pair") from None
    return value


def malformed(where: str, path: str, expected: str, got: Any) -> ValueError:
    """Return the error of a row's field."""
    shown = "None" if got is None else got if isinstance(got, str) else repr(got)
    return ValueError(f"{where}: field '{path}': expected {expected}, got {shown:.100}. Correct or remove the row.")
