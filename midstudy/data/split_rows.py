"""The rows of one split of a source, with what a reader must know of them when they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


class ChangedTextError(ValueError):
    """The text that was read differs from the text of the plan."""


class Rows(Iterator[dict[str, Any]]):
    """The rows of one split of a source, in order. A caller that stops early must also read the `rest`.

    `is_carved`: True if the split is carved from train; it may be empty. `num_rows`: rows read so far.
    """

    def __init__(
        self, rows: Iterator[dict[str, Any]], *, is_carved: bool, rest: Callable[[], Iterator[None]] = lambda: iter(())
    ) -> None:
        self._rows, self._rest = rows, rest
        self.is_carved, self.num_rows = is_carved, 0
        self.left_out: dict[str, int] = {}
        """Number of rows that the source itself leaves out, by reason (as in `Tally.left_out`); final at the end."""
        self.is_whole = True
        """True if that count covers the split to its end."""

    def __next__(self) -> dict[str, Any]:
        row = next(self._rows, None)
        if row is None:
            for _ in self.rest():
                pass
            raise StopIteration
        self.num_rows += 1
        return row

    def rest(self) -> Iterator[None]:
        """Read the remaining text in chunks without parsing rows.

        Raises:
            ChangedTextError: at the end, if the text differs from the revision. Discard everything made from the rows.
        """
        return self._rest()
