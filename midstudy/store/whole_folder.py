"""Writes a new folder that appears whole or not at all, also where a signal ends the process meanwhile."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from midstudy.store.atomic import sync

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class EndedBySignal(BaseException):
    """One of `ENDING_SIGNALS` came, and the handler of before did not end the process."""


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder under a hidden name beside `folder`, bring it to the disk and rename it.

    Whatever ends that, nothing of it stays: neither the hidden folder nor the folders above it that were made for it. A
    signal takes effect once all is removed.

    Args:
        folder: must not exist; what lies above it is made.

    Raises:
        OSError: it cannot be written.
        EndedBySignal: see there.
    """
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    above = [parent for parent in folder.parents if not parent.exists()]  # the deepest first
    signals = _Signals()
    try:
        try:
            signals.catch()
            temporary.mkdir(parents=True)
            write(temporary)
            for path in (*temporary.iterdir(), temporary):
                sync(path)
            os.rename(temporary, folder)
            sync(folder.parent)
        finally:
            signals.raise_at_once = False
    finally:  # no handler raises in here
        shutil.rmtree(temporary, ignore_errors=True)
        if not folder.exists():
            for parent in above:
                with contextlib.suppress(OSError):
                    parent.rmdir()
        signals.let_go()


class _Signals:
    """Signals that would end this process: raised as exceptions once, where that leaves nothing behind."""

    def __init__(self) -> None:
        self.raise_at_once = True
        self._came: int | None = None
        self._former: dict[int, Any] = {}

    def catch(self) -> None:
        if threading.current_thread() is threading.main_thread():  # Python delivers signals to no other
            for number in ENDING_SIGNALS:
                if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None):
                    self._former[number] = handler
                    signal.signal(number, self._note)

    def let_go(self) -> None:
        """Put the former handlers back, and let what came meanwhile do what it would have done."""
        for number, handler in self._former.items():
            signal.signal(number, handler)
        if self._came is not None:
            signal.raise_signal(self._came)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came = self._came or number
        if self.raise_at_once:
            self.raise_at_once = False
            raise EndedBySignal(signal.Signals(number).name)
