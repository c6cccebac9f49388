"""Chat of one or two exchanges: dialogue of the package chatterbot-corpus, `long_form` and `instruction`.

A pair of dialogue is in the split that what is asked has, however it is written. In a quarter of the conversations a second
pair of the same file and split follows. Of the text parts, what a context of 256 tokens can hold; `instruction`, whose own
splits share sentences, is in train only.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import yaml

from midstudy.data.builtin.abilities.messages import messages
from midstudy.data.builtin.draw import Draw
from midstudy.data.builtin.packages import ABILITIES_LIST, open_wheel
from midstudy.data.builtin.prepare import TEXT
from midstudy.data.overlap import words
from midstudy.data.splits import split_by_hash

PACKAGES = ("chatterbot-corpus", "botocore", "dask", "distributed", "nltk", "pandera", "python-docx", "seaborn", "xarray")
NUM_INSTRUCTIONS = 4_000
MOST_CHARS = 700

_Pair = tuple[str, str]

_PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-"})
_ALTERNATIVES = ("computers", "emotion")
"""Files whose entries are what is asked and several replies to it. The lines of other entries are said in turn."""

IDENTITY = "botprofile"
"""The file that is a part of `identity` instead."""


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield split and conversation."""
    for topic, dialogues in dialogue().items():
        if topic != IDENTITY:
            yield from _of_dialogues(topic, dialogues)
    for split in ("train", "dev", "test"):
        for row in TEXT.read("long_form", split):
            asked, reply = row["conversations"]
            if len(asked) + len(reply) <= MOST_CHARS:
                yield split, {"messages": messages((asked, reply)), "source": row["source"]}
    for row in islice(TEXT.read("instruction", "train"), NUM_INSTRUCTIONS):
        if len(row["inputs"]) + len(row["targets"]) <= MOST_CHARS:
            yield "train", {"messages": messages((row["inputs"], row["targets"])), "source": row["task"]}


def dialogue() -> dict[str, list[list[_Pair]]]:
    """Return the English dialogues of each file of the package, as what is asked and the reply, without duplicates."""
    found = {}
    with open_wheel("chatterbot-corpus", ABILITIES_LIST) as archive:
        for name in archive.names:
            if "/data/english/" in name:
                topic = name.rpartition("/")[2].removesuffix(".yml")
                entries = yaml.safe_load(archive.text(name))["conversations"]
                found[topic] = list(_pairs(entries, has_alternatives=topic in _ALTERNATIVES))
    return found


def _pairs(entries: list[Any], *, has_alternatives: bool) -> Iterator[list[_Pair]]:
    seen: set[_Pair] = set()
    for entry in entries:
        if not isinstance(entry, list):
            continue  # one line of the file lacks its dash
        lines = [line.strip().translate(_PLAIN) for line in entry]
        in_turn = zip(lines[::2], lines[1::2], strict=False)  # a last line without a reply is left out
        pairs = [(lines[0], reply) for reply in lines[1:]] if has_alternatives else list(in_turn)
        pairs = [pair for pair in pairs if pair not in seen and all(pair) and _size(pair) <= MOST_CHARS]
        seen.update(pairs)
        # A dialogue in turn stays together, two exchanges at a time.
        size = 1 if has_alternatives else 2
        yield from (pairs[start : start + size] for start in range(0, len(pairs), size))


def _of_dialogues(topic: str, dialogues: list[list[_Pair]]) -> Iterator[tuple[str, dict[str, Any]]]:
    by_split: dict[str, list[list[_Pair]]] = {}
    for pairs in dialogues:
        # What is said first decides; later lines of a dialogue that another split asks are found by the removal of overlap.
        by_split.setdefault(split_of(pairs[0][0]), []).append(pairs)
    for split, of_split in by_split.items():
        for pairs in of_split:
            draw = Draw(f"chat {topic} {pairs}")
            more = draw.choice(of_split)[0]
            if len(pairs) == 1 and draw.chance(25) and more not in pairs and _size(*pairs, more) <= MOST_CHARS:
                pairs = [*pairs, more]
            yield split, {"messages": messages(*pairs), "source": f"chatterbot {topic}"}


def _size(*pairs: _Pair) -> int:
    return sum(len(text) for pair in pairs for text in pair)


def split_of(asked: str) -> str:
    """Return the split of what is asked, by its words alone."""
    return split_by_hash(" ".join(words(asked)), dev=0.08, test=0.12)
