"""Spelling: the user asks for a word's letters. Of the test split, every word is held out.

Source: karpathy/nanochat `tasks/spellingbee.py`, SimpleSpelling, whose replies are `word:w,o,r,d`. Descriptions of it with
hyphens between the letters are wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from midstudy.data.builtin.abilities.messages import messages
from midstudy.data.builtin.abilities.words import PACKAGES, spelt, words

__all__ = ["PACKAGES", "rows"]


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield split and conversation, one for every word."""
    for split, of_split in words().items():
        for word in of_split:
            yield split, {"messages": messages((f"Spell the word: {word}", spelt(word)))}
