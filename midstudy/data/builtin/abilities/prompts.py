"""Four prompts whose replies are read and not scored: a greeting, a fact, a sum in words, and letters of a word.

Source: section 5.4 of a walk-through of karpathy/nanochat's `mid_train.py`, with the replies that it shows after mid.
What they ask may be in training text, such as the capital in `qa`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from midstudy.data.builtin.abilities.messages import messages

PACKAGES: tuple[str, ...] = ()

PROMPTS = (
    ("Hello! How are you?", "I'm doing well, thanks! How about you?"),
    ("What is the capital of France?", "Paris"),
    ("If I have 5 apples and buy 3 more, how many do I have?", "5 + 3 = 8"),
    ("How many 'r' are in 'strawberry'?", "3"),
)


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `test` and conversation."""
    for pair in PROMPTS:
        yield "test", {"messages": messages(pair)}
