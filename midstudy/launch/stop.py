"""Graceful stop: a signal sets a flag that work polls at safe points."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
"""SIGTERM: cancelled, or preempted on a cluster that sends no other signal. SIGUSR2: sent by Slurm before preemption and
the time limit, as submitit requests."""

_CHECK_EVERY_S = 2.0


class Stop:
    """A flag that tells whether this process should stop. `signals` lists the `STOP_SIGNALS` received, in order.

    Args:
        asked: returns whether a stop was requested on disk, since a signal may get lost; called at most every two seconds.
    """

    def __init__(self, asked: Callable[[], bool]) -> None:
        self.signals: list[int] = []
        self._asked, self._was_asked, self._checked_s = asked, False, float("-inf")
        self._pid = os.getpid()

    def __call__(self) -> bool:
        if not self.signals and not self._was_asked and time.monotonic() - self._checked_s > _CHECK_EVERY_S:
            self._was_asked, self._checked_s = self._asked(), time.monotonic()
        return bool(self.signals) or self._was_asked

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal. Forked workers inherit this handler and ignore the signal: the job itself ends them."""
        if os.getpid() == self._pid:
            self.signals.append(number)


@contextmanager
def stop_signals(asked: Callable[[], bool] = lambda: False) -> Iterator[Stop]:
    """Yield a flag that `STOP_SIGNALS` set while the context is active.

    The previous handlers (submitit's, which ignore SIGTERM) are restored afterwards. Python delivers signals to the main
    thread only; in any other thread (a job run inside a test or a notebook) no handler is installed.
    """
    stop = Stop(asked)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.signal(number, stop.note) for number in STOP_SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
