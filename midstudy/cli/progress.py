"""Progress of a run: on a terminal one line that is overwritten, in a file a new line every half minute."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from midstudy.run.watch import Progress

_FILE_INTERVAL_S = 30.0


class ProgressLine:
    """Print each `Progress` it is called with; `close` ends the line."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._last_s = -_FILE_INTERVAL_S

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        done = progress.ended == progress.num_stages
        if not self._is_terminal and not done and now - self._last_s < _FILE_INTERVAL_S:
            return
        if not self._is_terminal and progress.reused == progress.num_stages:
            return
        self._last_s = now
        text = (
            f"{progress.ended}/{progress.num_stages} stages, {100 * progress.share_done:.0f} %, "
            f"{_clock(progress.elapsed_s)} elapsed, about {_clock(progress.left_s)} left"
        )
        if progress.failed:
            text += f", {progress.failed} failed, {progress.skipped} skipped"
        if progress.running:
            text += f" · {'; '.join(progress.running)}"
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write("\r" + text[:width].ljust(width))
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def notice(self, text: str) -> None:
        """Print a line that stays, above the progress line."""
        width = shutil.get_terminal_size().columns - 1 if self._is_terminal else 0
        self._stream.write(("\r" if self._is_terminal else "") + text.ljust(width) + "\n")
        self._stream.flush()

    def close(self) -> None:
        if self._is_terminal:
            self._stream.write("\n")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
