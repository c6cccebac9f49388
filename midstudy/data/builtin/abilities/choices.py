"""Multiple choice by letter, as karpathy/nanochat renders MMLU: `- choice=Letter` lines, and a reply that is the letter.

Source: `tasks/common.py` (`render_mc`) and `tasks/mmlu.py`. Descriptions of it with lines such as `A. London` are wrong: the
letter comes after the choice, without a space, so that it is the token of the reply.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from midstudy.data.builtin.abilities.messages import messages
from midstudy.data.builtin.abilities.questions import PACKAGES, questions

__all__ = ["PACKAGES", "rows"]

LETTERS = ("A", "B", "C", "D")


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield split and conversation; `choices` are the letters."""
    for split, question in questions():
        yield split, by_letter(question.asked, question.choices, question.right, question.subject)


def by_letter(asked: str, choices: Sequence[str], right: int, subject: str) -> dict[str, Any]:
    """Return the conversation about a question of four choices, of which number `right` is right."""
    lines = "".join(f"- {choice}={letter}\n" for choice, letter in zip(choices, LETTERS, strict=True))
    prompt = f"Multiple Choice question: {asked}\n{lines}\nRespond only with the letter of the correct answer."
    return {"messages": messages((prompt, LETTERS[right])), "subject": subject, "choices": list(LETTERS)}
