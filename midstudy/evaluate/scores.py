"""Whether an answer is right: the scores of generated answers."""

from __future__ import annotations

import re
from collections.abc import Callable

_FINAL_NUMBER = re.compile(r"#### (-?[0-9.,]+)")


def final_number(text: str) -> str | None:
    """Return the number after the first `#### `, without commas; `None` if there is none (openai/grade-school-math)."""
    found = _FINAL_NUMBER.search(text)
    return None if found is None else found[1].replace(",", "")


def is_exact_number(answer: str, reference: str) -> bool:
    """Return whether both have the same final number."""
    return final_number(answer) is not None and final_number(answer) == final_number(reference)


def is_exact_text(answer: str, reference: str) -> bool:
    """Return whether both texts are equal but for white space around them."""
    return answer.strip() == reference.strip()


_SCORES: dict[str, Callable[[str, str], bool]] = {"exact_number": is_exact_number, "exact_text": is_exact_text}


def is_right(answer: str, reference: str, score: str) -> bool:
    """Return whether an answer is right by one of `recipe.generation.SCORES`."""
    return _SCORES[score](answer, reference)
