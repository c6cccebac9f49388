"""What interrupted attempts leave behind: which of it the next attempt reads, and which nobody does."""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path

from midstudy.store.attempt import CHECKPOINTS_FOLDER, LOCK_FILE

_TEMPORARY = re.compile(r"\.(.+\.tmp|.+\.[0-9a-f]{32}|attempts-[0-9a-f]{8}|claim\..+)")

NUM_KEPT = 2
"""Rolling checkpoints kept of all interrupted attempts at a stage together; two, in case that the last is damaged."""


def is_alive(attempt: Path) -> bool:
    """Whether the attempt in this folder is at work: it holds its lock from its beginning to its end, however it ends.

    True, to be on the safe side, where the file system knows no locks.
    """
    try:
        with (attempt / LOCK_FILE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def entries(folder: Path) -> list[Path]:
    """What is in a folder, by name; nothing where the folder is not there, or goes away just now.

    A symbolic link is not followed: what it leads to is not the store's, and must not be taken for something left behind.
    """
    try:
        return [] if folder.is_symlink() else sorted(folder.iterdir())
    except OSError:
        return []


def rolling_checkpoints(attempts: Iterable[Path]) -> list[Path]:
    """The rolling checkpoints of these attempts, the lowest step first: their names sort by step."""
    found = (path for attempt in attempts for path in entries(attempt / CHECKPOINTS_FOLDER))
    return sorted((path for path in found if not path.name.startswith(".")), key=lambda path: path.name)


def half_written(attempt: Path) -> list[Path]:
    """Folders under a temporary name, whose writer was killed if this attempt is not alive."""
    return [path for folder in entries(attempt) for path in entries(folder) if is_temporary(path)]


def is_temporary(path: Path) -> bool:
    """Whether this is one of the names under which this project writes or removes; `.git` and its like are not."""
    return _TEMPORARY.fullmatch(path.name) is not None


def clear_interrupted(attempts: Iterable[Path]) -> None:
    """Remove what no later attempt reads: what is half written, and rolling checkpoints beyond the newest `NUM_KEPT`."""
    dead = [attempt for attempt in attempts if not is_alive(attempt)]
    for path in (*(path for attempt in dead for path in half_written(attempt)), *rolling_checkpoints(dead)[:-NUM_KEPT]):
        remove(path)


def remove(path: Path) -> bool:
    """Remove a file or folder, at once for everybody else; false where somebody else was first, or it cannot be done."""
    hidden = path.with_name(f".removed.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.rename(hidden)
    except OSError:
        return False
    if hidden.is_dir() and not hidden.is_symlink():
        shutil.rmtree(hidden, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            hidden.unlink()
    return True
