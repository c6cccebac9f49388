"""An advisory lock on a file, so that two jobs do not prepare the same cached text."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock on `path`, which is created with its folder; wait while another process holds it.

    The system releases the lock when the process ends, even if it is killed. On a file system without locks the work may
    be done twice, which is harmless because results are renamed into place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
