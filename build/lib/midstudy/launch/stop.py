"""Being told to stop: a signal raises a flag, work looks at the flag where it can be left."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
"""SIGTERM: cancelled, or preempted where the cluster sends nothing else. SIGUSR2: what submitit has Slurm send before
preemption and the time limit."""

_LOOK_EVERY_S = 2.0


class Stop:
    """Whether this process is to stop. `signals` are those of `STOP_SIGNALS` that have come, in order.

    Args:
        asked: looks for a word on disk, every two seconds at most: a signal may get lost.
    """

    def __init__(self, asked: Callable[[], bool]) -> None:
        self.signals: list[int] = []
        self._asked, self._was_asked, self._looked_s = asked, False, float("-inf")
        self._pid = os.getpid()

    def __call__(self) -> bool:
        if not self.signals and not self._was_asked and time.monotonic() - self._looked_s > _LOOK_EVERY_S:
            self._was_asked, self._looked_s = self._asked(), time.monotonic()
        return bool(self.signals) or self._was_asked

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler. Forked workers inherit it, and do nothing: the job ends them itself."""
        if os.getpid() == self._pid:
            self.signals.append(number)


@contextmanager
def stop_signals(asked: Callable[[], bool] = lambda: False) -> Iterator[Stop]:
    """Within: what says whether one of `STOP_SIGNALS` has come.

    submitit's own handlers, which ignore SIGTERM, are put back afterwards. Python delivers signals to the main thread
    only; elsewhere (a job run inside a test or a notebook) nothing is installed.
    """
    stop = Stop(asked)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    former = {number: signal.signal(number, stop.note) for number in STOP_SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
