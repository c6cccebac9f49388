"""The clock used by launch code. The simulation replaces these functions with its own."""

from __future__ import annotations

import time


def now() -> float:
    """Return Unix time in seconds by this host's clock; clocks of other hosts may differ."""
    return time.time()


def monotonic() -> float:
    """Return seconds since an arbitrary moment on this host; never decreases."""
    return time.monotonic()


def sleep(duration_s: float) -> None:
    """Block for `duration_s` seconds."""
    time.sleep(duration_s)
