"""The documents of one part of a train split, chosen by the hash of their text (`recipe/train_part.py`)."""

from __future__ import annotations

from collections.abc import Iterator

from midstudy.data.limit import Limited
from midstudy.data.splits import unit_hash
from midstudy.data.tokenizer import without_end
from midstudy.recipe.train_part import TrainPart


def part_hash(text: str) -> float:
    """Return the number in [0, 1) that decides the part of a document.

    The first 48 bits of the SHA-256 of `train_part`, a line break and the text, as a fraction of 2^48. The text is
    stripped as it is for tokenisation, so that documents with the same tokens have the same hash. The prefix makes parts
    independent of splits that are carved by a hash of the same text.
    """
    return unit_hash(f"train_part\n{without_end(text.strip())}")


class InPart:
    """The documents of a limited text that are in a part; after the iteration, the counts are final, as in `Limited`.

    The limit applies to the whole text, so parts of one text are disjoint and complete under any limit.
    """

    def __init__(self, texts: Limited[str], part: TrainPart) -> None:
        self._texts, self._part = texts, part
        self.num_items, self.num_blank, self._num_others = 0, 0, 0

    def __iter__(self) -> Iterator[str]:
        start, stop = float(self._part.start), float(self._part.stop)
        for text in self._texts:
            if start <= part_hash(text) < stop:
                self.num_items += 1
                self.num_blank += not text or text.isspace()
                yield text
            else:
                self._num_others += 1

    @property
    def left_out(self) -> dict[str, int]:
        """Number of documents past the limit and in other parts, by reason (as in `Tally.left_out`)."""
        return self._texts.left_out | ({"other_part": self._num_others} if self._num_others else {})

    @property
    def is_whole(self) -> bool:
        """True if the count of what the limit leaves out covers the split to its end."""
        return self._texts.is_whole

    def require_any(self, path: str) -> None:
        """Reject a part without documents; call this after the iteration.

        Args:
            path: the dotted path of the corpus, for the message.

        Raises:
            ValueError: no document is in the part.
        """
        if not self.num_items:
            raise ValueError(
                f"{path}.train_part: expected at least one document whose hash lies in {self._part}, got none of "
                f"{self._num_others:,}. Choose a larger share, or add text."
            )
