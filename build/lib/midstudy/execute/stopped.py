"""What a stage raises when it was told to stop and has left its work where the next attempt finds it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")


class StoppedError(RuntimeError):
    """The job was told to stop; nothing that was worth keeping is lost."""


def until_told(items: Iterable[_Item], should_stop: Callable[[], bool], *, doing: str, then: str) -> Iterator[_Item]:
    """The items, one after the other, for as long as `should_stop`, asked before each is handed out, says no.

    Raises:
        StoppedError: it said yes: "stopped while `doing`; the next attempt `then`".
    """
    for item in items:
        if should_stop():
            raise StoppedError(f"stopped while {doing}; the next attempt {then}")
        yield item
