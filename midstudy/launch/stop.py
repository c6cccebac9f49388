"""Being told to stop: a signal raises a flag, work looks at the flag where it can be left."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
"""SIGTERM: cancelled. SIGUSR2: what submitit has Slurm send before preemption and the time limit."""


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Within: a function that says whether one of `STOP_SIGNALS` has come.

    submitit's own handlers, which ignore SIGTERM, are put back afterwards. Python delivers signals to the main thread
    only; elsewhere (a job run inside a test or a notebook) nothing is installed and the answer stays false.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    told: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        told.append(number)

    former = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield lambda: bool(told)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
