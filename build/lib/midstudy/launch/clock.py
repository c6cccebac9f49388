"""Where launch code takes the time from. A simulation puts its own functions in the place of these."""

from __future__ import annotations

import time


def now() -> float:
    """Unix time in seconds, by this host's clock; other hosts' differ."""
    return time.time()


def monotonic() -> float:
    """Seconds since some moment of this host; never set back."""
    return time.monotonic()


def sleep(duration_s: float) -> None:
    time.sleep(duration_s)
