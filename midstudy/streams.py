"""Standard output and errors of the `midstudy` command: all that can be printed is, and a reader may leave."""

from __future__ import annotations

import contextlib
import io
import os
import sys


class _Output(io.TextIOWrapper):
    """A stream whose reader may leave, as `| head` does: what is written then is lost, and the command goes on.

    `trouble` is what else kept it from being written, as a full disk.
    """

    trouble: OSError | None = None

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._leave(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._leave(error)

    def _leave(self, error: OSError) -> None:
        if not isinstance(error, BrokenPipeError):
            self.trouble = error
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


def prepare() -> None:
    """Let print never raise: letters that an encoding lacks are shown as numbers, and a stream that is closed takes all."""
    sys.stdout = _prepared(sys.stdout, 1)
    sys.stderr = _prepared(sys.stderr, 2)


def lost() -> int:
    """The exit status for what could not be printed, as on a full disk: 2, which is said; 0 where a reader just left."""
    sys.stdout.flush()
    trouble = getattr(sys.stdout, "trouble", None)
    if trouble is not None:
        print(f"midstudy: standard output could not be written ({trouble.strerror})", file=sys.stderr)
    return 0 if trouble is None else 2


def _prepared(stream: object, descriptor: int) -> io.TextIOWrapper:
    if isinstance(stream, io.TextIOWrapper):
        encoding, buffered = stream.encoding, not stream.line_buffering
        return _Output(stream.detach(), encoding, "backslashreplace", line_buffering=not buffered)
    return _Output(open(descriptor, "wb", closefd=False), "utf-8", "backslashreplace")
