"""A part of a corpus's train split, chosen by the hash of each document's text.

The hash depends on the text alone, so equal documents are in the same part, and a document keeps its part when others are
added, removed or reordered. Its index would promise neither. The order of the source still decides what `max_bytes` keeps,
and that is the text that is split. Documents that only resemble each other may be in different parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from midstudy.recipe.errors import RecipeError
from midstudy.recipe.plain import hold_plain_numbers


@dataclass(frozen=True, kw_only=True)
class TrainPart:
    """The documents of a train split whose hash, a number in [0, 1), lies in [start, stop).

    `midstudy/data/train_part.py` defines the hash. Parts with disjoint ranges have no document in common.
    """

    start: Fraction
    stop: Fraction

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        ends = (self.start, self.stop)
        if not all(isinstance(end, Fraction) for end in ends) or not 0 <= self.start < self.stop <= 1 or ends == (0, 1):
            raise RecipeError(
                "train_part",
                expected="fractions with 0 ≤ start < stop ≤ 1, and less than the whole",
                got=f"start {self.start}, stop {self.stop}",
                fix="train_part=None keeps the whole split.",
            )

    @property
    def share(self) -> Fraction:
        """The expected share of the documents that are in the part."""
        return self.stop - self.start

    def __str__(self) -> str:
        return f"[{self.start}, {self.stop})"
