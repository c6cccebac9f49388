"""The documents of one part of a train split, chosen by the hash of their text (`recipe/train_part.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

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


def is_in_part(text: str, part: TrainPart) -> bool:
    """Return whether a document is in a part of train."""
    return float(part.start) <= part_hash(text) < float(part.stop)


_Item = TypeVar("_Item")


class InPart(Generic[_Item]):
    """The documents of a limited text that are in a part; after the iteration, the counts are final, as in `Limited`.

    The limit applies to the whole text, so parts of one text are disjoint and complete under any limit.

    Args:
        is_in: returns whether an item is in the part.
    """

    def __init__(self, texts: Limited[_Item], part: TrainPart, *, is_in: Callable[[_Item], bool]) -> None:
        self._texts, self._part, self._is_in = texts, part, is_in
        self.num_items, self.num_blank, self._num_others = 0, 0, 0

    def __iter__(self) -> Iterator[_Item]:
        for item in self._texts:
            if self._is_in(item):
                self.num_items += 1
                self.num_blank += self._texts.size_of(item).is_blank
                yield item
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
