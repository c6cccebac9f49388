"""The exception of a stage that was asked to stop and has saved its work for the next attempt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")


class StoppedError(RuntimeError):
    """The job was asked to stop; work worth keeping is saved."""


def until_stopped(items: Iterable[_Item], should_stop: Callable[[], bool], *, doing: str, then: str) -> Iterator[_Item]:
    """Yield the items; poll `should_stop` before each.

    Raises:
        StoppedError: `should_stop` returned true; the message is "stopped while `doing`; the next attempt `then`".
    """
    for item in items:
        if should_stop():
            raise StoppedError(f"stopped while {doing}; the next attempt {then}")
        yield item
