"""The questions of `choices`, each without its choices: the reply is the right one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from midstudy.data.builtin.abilities.messages import messages
from midstudy.data.builtin.abilities.questions import PACKAGES, questions

__all__ = ["PACKAGES", "rows"]


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield split and conversation; `choices` are the four replies to compare."""
    for split, question in questions():
        asked, choices = messages((question.asked, question.choices[question.right])), list(question.choices)
        yield split, {"messages": asked, "subject": question.subject, "choices": choices}
