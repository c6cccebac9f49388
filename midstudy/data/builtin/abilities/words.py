"""English words of three to eight letters, each in one split: what is spelt and whose letters are counted.

Source: *Webster's Second International* of 1934, as the package english-words holds it: a pickled set of text, of which the
opcodes are read and nothing is unpickled.
"""

from __future__ import annotations

import pickletools
import re
from functools import cache

from midstudy.data.builtin.packages import ABILITIES_LIST, open_wheel
from midstudy.data.splits import split_by_hash

PACKAGES = ("english-words",)

_WORD = re.compile(r"[a-z]{3,8}")


@cache
def words() -> dict[str, tuple[str, ...]]:
    """Return the words of each split in alphabetical order: 3 % are in test, 2 % in dev."""
    with open_wheel("english-words", ABILITIES_LIST) as archive:
        pickled = archive.read("english_words/data/web2_alpha_lower.pickle")
    texts = {text for _, text, _ in pickletools.genops(pickled) if isinstance(text, str) and _WORD.fullmatch(text)}
    by_split: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for word in sorted(texts):
        by_split[split_by_hash(word, dev=0.02, test=0.03)].append(word)
    return {split: tuple(of_split) for split, of_split in by_split.items()}


def spelt(word: str) -> str:
    """Return a word and its letters, as `bee:b,e,e` (karpathy/nanochat `tasks/spellingbee.py`)."""
    return f"{word}:{','.join(word)}"
