"""One process at a time: an advisory lock on a file, so that two jobs do not make the same cached text twice."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of `path` (created with its folder); waits while another process holds it.

    The system releases it when its holder ends, however it ends. Where a file system has no locks the work may be
    done twice; results are moved into place by rename, so that is harmless.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
