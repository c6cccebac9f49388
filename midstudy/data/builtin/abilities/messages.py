"""The messages of a conversation from its texts."""

from __future__ import annotations

from typing import Any

Reply = str | list[dict[str, str]]
"""Text, or parts of type `text`, `python` and `python_output`."""


def messages(*exchanges: tuple[str, Reply]) -> list[dict[str, Any]]:
    """Return the messages of exchanges, each what the user says and the assistant's reply."""
    return [
        message
        for asked, reply in exchanges
        for message in ({"role": "user", "content": asked}, {"role": "assistant", "content": reply})
    ]


def said(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def call(expression: str, result: str) -> list[dict[str, str]]:
    """Return a call of the calculator and what it returned."""
    return [{"type": "python", "text": expression}, {"type": "python_output", "text": result}]
