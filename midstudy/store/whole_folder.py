"""Write a new folder atomically: it appears complete or not at all, even if a signal ends the process."""

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

from midstudy.files.atomic import sync

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class EndedBySignal(BaseException):
    """One of `ENDING_SIGNALS` arrived, and the previous handler did not end the process."""


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a hidden folder next to `folder`, sync it to disk and rename it.

    On any failure, remove the hidden folder and the parent folders created for it. A signal takes effect after the cleanup.

    Args:
        folder: must not exist; parent folders are created.

    Raises:
        OSError: the folder cannot be written.
        EndedBySignal: an ending signal arrived and its previous handler returned.
    """
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    above = [parent for parent in folder.parents if not parent.exists()]  # deepest first
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
    finally:  # no handler raises from here on
        shutil.rmtree(temporary, ignore_errors=True)
        if not folder.exists():
            for parent in above:
                with contextlib.suppress(OSError):
                    parent.rmdir()
        signals.restore()


class _Signals:
    """Signals that would end this process: the first raises an exception while cleanup is still possible."""

    def __init__(self) -> None:
        self.raise_at_once = True
        self._arrived: int | None = None
        self._previous: dict[int, Any] = {}

    def catch(self) -> None:
        if threading.current_thread() is threading.main_thread():  # Python delivers signals only to the main thread
            for number in ENDING_SIGNALS:
                if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None):
                    self._previous[number] = handler
                    signal.signal(number, self._handle)

    def restore(self) -> None:
        """Restore the previous handlers and re-raise the signal that arrived meanwhile."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._arrived is not None:
            signal.raise_signal(self._arrived)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._arrived = self._arrived or number
        if self.raise_at_once:
            self.raise_at_once = False
            raise EndedBySignal(signal.Signals(number).name)
