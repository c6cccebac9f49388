"""Standard output and error of the `midstudy` command: encoding errors and closed pipes never raise."""

from __future__ import annotations

import contextlib
import io
import os
import sys


class _Output(io.TextIOWrapper):
    """A stream that survives when its reader closes, as with `| head`: later output is discarded, the command continues.

    `trouble` holds any other write error, such as a full disk.
    """

    trouble: OSError | None = None

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._discard(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._discard(error)

    def _discard(self, error: OSError) -> None:
        if not isinstance(error, BrokenPipeError):
            self.trouble = error
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


def prepare() -> None:
    """Make print never raise: unencodable characters are escaped, and output to a closed stream is discarded."""
    sys.stdout = _prepared(sys.stdout, 1)
    sys.stderr = _prepared(sys.stderr, 2)


def lost() -> int:
    """Return the exit status for lost output: 2, with a message, after a write error; 0 if only the reader closed."""
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
