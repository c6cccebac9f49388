"""Contamination: training documents that share an exact text or a 13-word sequence with a test item.

Words are runs of letters and digits of the lower-cased text. Thirteen is the length GPT-3 used for its own test sets
(Brown et al. 2020, appendix C). A test item shorter than that overlaps only a document that is equal to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

NGRAM = 13
ANCHOR = 7
"""Any window of 13 words covers words i..i+6 for some i that is a multiple of 7: only these runs need a look-up."""

_WORD = re.compile(r"[^\W_]+")
_TO_SPACE = {code: " " for code in range(128) if not chr(code).isalnum()}
"""Of ASCII text, which this reads several times as fast as the expression does."""


def words(text: str) -> list[str]:
    """Return the lower-cased runs of letters and digits."""
    lowered = text.lower()
    return lowered.translate(_TO_SPACE).split() if lowered.isascii() else _WORD.findall(lowered)


def ngrams(text: str, n: int = NGRAM) -> Iterator[str]:
    """Yield every run of `n` words, joined by spaces; nothing if the text has fewer than `n` words."""
    sequence = words(text)
    for start in range(len(sequence) - n + 1):
        yield " ".join(sequence[start : start + n])


class TestItems:
    """Test items to keep out of training text: `overlaps(text)` returns whether a document shares text with one.

    The result is exact: every 13-word run counts. Anchors only select the runs that need a comparison.
    """

    __test__ = False

    def __init__(self, items: Iterable[str]) -> None:
        self._whole: set[str] = set()
        self._grams: set[str] = set()
        self._anchors: set[str] = set()
        for item in items:
            self._whole.add(" ".join(words(item)))
            self._grams.update(ngrams(item))
            self._anchors.update(ngrams(item, ANCHOR))

    def overlaps(self, text: str) -> bool:
        """Return whether the text equals an item or shares a 13-word run with one."""
        sequence = words(text)
        if len(sequence) < NGRAM:
            return " ".join(sequence) in self._whole
        anchors, size = self._anchors, len(sequence)
        for anchor in range(0, size - ANCHOR + 1, ANCHOR):
            if " ".join(sequence[anchor : anchor + ANCHOR]) in anchors:
                for start in range(max(0, anchor - NGRAM + ANCHOR), min(anchor, size - NGRAM) + 1):
                    if " ".join(sequence[start : start + NGRAM]) in self._grams:
                        return True
        return False
