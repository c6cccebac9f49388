"""What the assistant says of itself: a small model named after the project, and the bot profile of chatterbot-corpus.

karpathy/nanochat has a file of 1,000 such conversations, made by a larger model; these are made from `identity.toml`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from midstudy.data.builtin.abilities.chat import IDENTITY, dialogue, split_of
from midstudy.data.builtin.abilities.messages import messages
from midstudy.data.builtin.draw import Draw

PACKAGES = ("chatterbot-corpus",)

_TOPICS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("ascii"))["topic"]


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield split and conversation: each question alone, and followed by one of another topic in the same split."""
    asked = [(number, ask) for number, topic in enumerate(_TOPICS) for ask in topic["ask"]]
    for number, ask in asked:
        split, draw = split_of(ask), Draw(f"identity {ask}")
        yield split, {"messages": messages((ask, draw.choice(_TOPICS[number]["reply"])))}
        others = [(other, more) for other, more in asked if other != number and split_of(more) == split]
        other, more = draw.choice(others)
        exchanges = [(ask, draw.choice(_TOPICS[number]["reply"])), (more, draw.choice(_TOPICS[other]["reply"]))]
        yield split, {"messages": messages(*exchanges)}
    for pairs in dialogue()[IDENTITY]:
        yield split_of(pairs[0][0]), {"messages": messages(*pairs)}
