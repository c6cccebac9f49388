"""Rows of several sources in exact shares of text bytes: the next row is of the source furthest behind its share.

So every prefix of the text has the shares, to within a document of each source. Ties go to the first source. The text ends
when the source whose turn it is has no more rows: going on would change the shares. What the others have left is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from midstudy.data.limit import COUNTED_CHARACTERS
from midstudy.data.rows import as_text
from midstudy.data.split_rows import Rows


class MixedRows(Rows):
    """The rows of a corpus's sources, interleaved.

    Args:
        parts: the rows of each source.
        shares: the share of each source in the UTF-8 bytes of the text, all above 0.
    """

    def __init__(self, parts: Sequence[Rows], shares: Sequence[Fraction]) -> None:
        super().__init__(self._interleaved(), is_carved=any(part.is_carved for part in parts), rest=self._rest_of_parts)
        self._parts, self._shares = parts, [float(share) for share in shares]

    def _interleaved(self) -> Iterator[dict[str, Any]]:
        num_bytes = [0] * len(self._parts)
        while True:
            due = min(range(len(self._parts)), key=lambda place: num_bytes[place] / self._shares[place])
            row = next(self._parts[due], None)
            if row is None:
                self._count_others(due)
                return
            num_bytes[due] += len(as_text(row, "").encode("utf-8"))  # the row was checked when it was read
            yield row

    def _count_others(self, ended: int) -> None:
        number = num_characters = 0
        for place, part in enumerate(self._parts):
            if place == ended:
                continue
            for row in part:
                number += 1
                num_characters += len(as_text(row, ""))
                if num_characters >= COUNTED_CHARACTERS:
                    self.is_whole = False
                    break
        self.left_out = {"past_shares": number} if number else {}

    def _rest_of_parts(self) -> Iterator[None]:
        for part in self._parts:
            yield from part.rest()
