"""The first documents or items of a split, up to the recipe's limit, with a count of what the limit leaves out.

A document is never split: the first one that would exceed `max_bytes` is left out, with everything after it. It is usually
small relative to the limit. A huge one would cut the text down to whatever comes before it, which is an error if at least
half of `max_bytes` would stay unused and at least as many documents come after it as before. A document that fits but takes
more than half of the limit is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

COUNTED_CHARACTERS = 2**26
"""Characters read past a limit to count what it leaves out: takes seconds, where a whole data set may take hours."""

_FULL = 0.9
"""If at least this share of `max_bytes` is used, the document that ends the text has not cost any requested text."""

_Item = TypeVar("_Item")


class TextSize(NamedTuple):
    """What a limit needs to know of a text: its UTF-8 bytes, its characters, and whether they are all white space."""

    num_bytes: int
    num_characters: int
    is_blank: bool


def text_size(text: str) -> TextSize:
    """Return the size of a text."""
    return TextSize(len(text.encode("utf-8")), len(text), not text or text.isspace())


class Limited(Generic[_Item]):
    """The items up to a limit. After the iteration, `left_out` and the other counts are final.

    Args:
        size_of: returns the size of an item's text; items may be known by their sizes alone.
        path: the dotted path of the data set or tokenizer, for messages.
        max_bytes: limit in UTF-8 bytes of text; `None` for no limit.
        max_items: limit in items; `None` for no limit.
        should_stop: called at every item that is only counted; counting ends when it returns true.

    Raises:
        ValueError: during the iteration, if one document leaves most of the text out (see the module docstring).
    """

    def __init__(
        self,
        items: Iterable[_Item],
        *,
        size_of: Callable[[_Item], TextSize],
        path: str,
        split: str,
        max_bytes: int | None = None,
        max_items: int | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._items, self.size_of, self._path, self._split = items, size_of, path, split
        self._max_bytes, self._max_items, self._should_stop = max_bytes, max_items, should_stop
        self.num_items, self.num_bytes, self.num_blank = 0, 0, 0
        self._largest_bytes = 0
        self.left_out: dict[str, int] = {}
        """Number of documents or items that the limit leaves out, by reason (as in `Tally.left_out`)."""
        self.is_whole = True
        """True if the count of what is left out covers the split to its end."""

    def __iter__(self) -> Iterator[_Item]:
        items = iter(self._items)
        for item in items:
            if self.num_items == self._max_items:
                self.left_out = {"past_max_items": 1 + self._count(items)}
                return
            num_bytes, _, is_blank = self.size_of(item)
            if self._max_bytes is not None:
                if self.num_bytes + num_bytes > self._max_bytes:
                    self._end_at(num_bytes, self._count(items))
                    return
                self.num_bytes += num_bytes
                self._largest_bytes = max(self._largest_bytes, num_bytes)
            self.num_items += 1
            self.num_blank += is_blank
            yield item

    def _count(self, items: Iterator[_Item]) -> int:
        """Return the number of remaining items; set `is_whole` to false if not all could be counted."""
        number = num_characters = 0
        try:
            for item in items:
                number += 1
                num_characters += self.size_of(item).num_characters
                if num_characters >= COUNTED_CHARACTERS or self._should_stop():
                    self.is_whole = False
                    break
        except Exception:  # text past the limit may be damaged or unreachable: only the count is affected
            self.is_whole = False
        return number

    def _end_at(self, num_bytes: int, num_after: int) -> None:
        """Count the document of `num_bytes` that does not fit, and the documents after it."""
        assert self._max_bytes is not None
        if self.num_bytes >= _FULL * self._max_bytes:
            one_dominates = self._largest_bytes > self._max_bytes / 2
            self.left_out = {"past_one_document" if one_dominates else "past_max_bytes": 1 + num_after}
            return
        if self.num_bytes < self._max_bytes / 2 and num_after >= self.num_items:
            is_larger = num_bytes > self._max_bytes
            raise ValueError(
                f"{self._path}.max_bytes: document {self.num_items + 1} of the {self._split} split "
                f"{'is larger than' if is_larger else 'does not fit into'} max_bytes: it has {num_bytes:,} bytes, max_bytes "
                f"is {self._max_bytes:,}. It ends the text after {self.num_items:,} documents ({self.num_bytes:,} bytes)"
                f"{self._and_after(num_after)}. Raise max_bytes to at least {self.num_bytes + num_bytes:,}, or remove the "
                "document from the data."
            )
        self.left_out = {"does_not_fit": 1, **({"after_it": num_after} if num_after else {})}

    def _and_after(self, number: int) -> str:
        return f" and leaves out the {'' if self.is_whole else 'at least '}{number:,} after it" if number else ""
