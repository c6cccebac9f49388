"""Contamination: training documents that share an exact text or a 13-word sequence with a test item.

Words are runs of letters and digits of the lower-cased text. Thirteen is the length GPT-3 used for its own test sets
(Brown et al. 2020, appendix C). A test item shorter than that overlaps only a document that is equal to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

NGRAM = 13
ANCHOR = 7
"""Any window of 13 words covers whole words i..i+6 for one i that is a multiple of 7: only those need be looked up."""

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Lower-cased runs of letters and digits."""
    return _WORD.findall(text.lower())


def ngrams(text: str, n: int = NGRAM) -> Iterator[str]:
    """Every run of `n` words, joined by spaces; none where the text is shorter."""
    sequence = words(text)
    for start in range(len(sequence) - n + 1):
        yield " ".join(sequence[start : start + n])


class TestItems:
    """Test items to keep out of training text: `overlaps(text)` says whether a document contains one or a part.

    Exact: every 13-word run is compared; anchors only decide where a comparison is worth its time.
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
        """Whether the text equals an item or shares a 13-word run with one."""
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
