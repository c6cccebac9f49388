"""Waiting in tests: for a condition, never for a fixed time.

On a busy machine everything is late, so waits have no separate short limits: pytest-timeout ends a whole test, and
`leftovers` ends its processes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_LOOK_EVERY_S = 0.02
_GIVE_UP_S = 580.0
"""Just below a test's limit (`timeout` in pyproject.toml), whose error asyncio may swallow in one of its tasks."""


def wait_until(condition: Callable[[], T | None]) -> T:
    """Poll `condition` until it is true; return its value."""
    while not (value := condition()):
        time.sleep(_LOOK_EVERY_S)
    return value


async def until(condition: Callable[[], T | None]) -> T:
    """Like `wait_until`, without blocking the event loop."""
    while not (value := condition()):
        await asyncio.sleep(_LOOK_EVERY_S)
    return value


def finish(work: Awaitable[T]) -> T:
    """Run an event loop until `work` is done."""

    async def within() -> T:
        return await asyncio.wait_for(work, _GIVE_UP_S)

    return asyncio.run(within())
