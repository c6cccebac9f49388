"""The first documents or items of a split, up to the limit of its recipe, with a count of what the limit leaves out.

A document is never divided: the one that would pass `max_bytes` is left out and ends the text. As a rule it is small beside
the limit. One that is not would shrink the text to what happens to come before it: that is refused where at least half of
`max_bytes` would stay empty and no fewer documents come after it than before. One that fits and takes more than half of the
limit is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

COUNTED_CHARACTERS = 2**26
"""So much text is read past a limit to count what it leaves out: seconds, where a whole data set may take hours."""

_FULL = 0.9
"""From this share of `max_bytes` on, the document that ends the text has cost none that was asked for."""

_Item = TypeVar("_Item")


class Limited(Generic[_Item]):
    """The items up to a limit; once they are read, `left_out` and the other counts are right.

    Args:
        text_of: what of an item is text.
        path: the dotted path of the data set or tokenizer, for messages.
        max_bytes: UTF-8 bytes of text; none reads all.
        max_items: items; none reads all.
        should_stop: asked at every item that is only counted; yes ends the counting.

    Raises:
        ValueError: while it is read: one document leaves most of the text out, as said above.
    """

    def __init__(
        self,
        items: Iterable[_Item],
        *,
        text_of: Callable[[_Item], str],
        path: str,
        split: str,
        max_bytes: int | None = None,
        max_items: int | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._items, self._text_of, self._path, self._split = items, text_of, path, split
        self._max_bytes, self._max_items, self._should_stop = max_bytes, max_items, should_stop
        self.num_items, self.num_bytes, self.num_blank = 0, 0, 0
        self._largest_bytes = 0
        self.left_out: dict[str, int] = {}
        """What the limit leaves out, by the reasons of `Tally.left_out`."""
        self.is_whole = True
        """Whether what is left out was counted to the end of the split."""

    def __iter__(self) -> Iterator[_Item]:
        items = iter(self._items)
        for item in items:
            if self.num_items == self._max_items:
                self.left_out = {"past_max_items": 1 + self._count(items)}
                return
            text = self._text_of(item)
            if self._max_bytes is not None:
                num_bytes = len(text.encode("utf-8"))
                if self.num_bytes + num_bytes > self._max_bytes:
                    self._end_at(num_bytes, self._count(items))
                    return
                self.num_bytes += num_bytes
                self._largest_bytes = max(self._largest_bytes, num_bytes)
            self.num_items += 1
            self.num_blank += not text or text.isspace()
            yield item

    def _count(self, items: Iterator[_Item]) -> int:
        """How many more there are; `is_whole` says whether all could be counted."""
        number = num_characters = 0
        try:
            for item in items:
                number += 1
                num_characters += len(self._text_of(item))
                if num_characters >= COUNTED_CHARACTERS or self._should_stop():
                    self.is_whole = False
                    break
        except Exception:  # what no limit asks for may be damaged or out of reach: that costs only the count
            self.is_whole = False
        return number

    def _end_at(self, num_bytes: int, num_after: int) -> None:
        """Count the document of `num_bytes` that does not fit, and those after it."""
        assert self._max_bytes is not None
        if self.num_bytes >= _FULL * self._max_bytes:
            is_one = self._largest_bytes > self._max_bytes / 2
            self.left_out = {"past_one_document" if is_one else "past_max_bytes": 1 + num_after}
            return
        if self.num_bytes < self._max_bytes / 2 and num_after >= self.num_items:
            larger = num_bytes > self._max_bytes
            raise ValueError(
                f"{self._path}.max_bytes: document {self.num_items + 1} of the {self._split} split "
                f"{'is larger than' if larger else 'does not fit into'} max_bytes: it has {num_bytes:,} bytes, max_bytes is "
                f"{self._max_bytes:,}. It ends the text after {self.num_items:,} documents ({self.num_bytes:,} bytes)"
                f"{self._and_after(num_after)}. Raise max_bytes to at least {self.num_bytes + num_bytes:,}, or take the "
                "document out of the data."
            )
        self.left_out = {"does_not_fit": 1, **({"after_it": num_after} if num_after else {})}

    def _and_after(self, number: int) -> str:
        return f" and leaves out the {'' if self.is_whole else 'at least '}{number:,} after it" if number else ""
