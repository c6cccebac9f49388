"""Leftovers of interrupted attempts: find what the next attempt can resume from, and remove the rest."""

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
"""Rolling checkpoints to keep over all interrupted attempts at a stage. Two, in case the newest is damaged."""


def is_alive(attempt: Path) -> bool:
    """Return whether the attempt in this folder is still running, that is, holds its lock.

    To be safe, this is True if the file system has no locks.
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
    """Return the paths in a folder, sorted by name; none if the folder does not exist or is being removed.

    A symbolic link is not followed: its target is not part of the store and must not be treated as a leftover.
    """
    try:
        return [] if folder.is_symlink() else sorted(folder.iterdir())
    except OSError:
        return []


def rolling_checkpoints(attempts: Iterable[Path]) -> list[Path]:
    """Return the rolling checkpoints of these attempts, lowest step first; their names sort by step."""
    paths = (path for attempt in attempts for path in entries(attempt / CHECKPOINTS_FOLDER))
    return sorted((path for path in paths if not path.name.startswith(".")), key=lambda path: path.name)


def half_written(attempt: Path) -> list[Path]:
    """Return the attempt's files and folders with a temporary name; if it is not alive, their writer was killed."""
    return [path for folder in entries(attempt) for path in entries(folder) if is_temporary(path)]


def is_temporary(path: Path) -> bool:
    """Return whether this is a temporary name that midstudy uses to write or remove; `.git`, for example, is not."""
    return _TEMPORARY.fullmatch(path.name) is not None


def clear_interrupted(attempts: Iterable[Path]) -> None:
    """Remove what no later attempt reads: half-written files, and all but the newest `NUM_KEPT` rolling checkpoints."""
    dead = [attempt for attempt in attempts if not is_alive(attempt)]
    for path in (*(path for attempt in dead for path in half_written(attempt)), *rolling_checkpoints(dead)[:-NUM_KEPT]):
        remove(path)


def remove(path: Path) -> bool:
    """Remove a file or folder, atomically for other processes.

    Return False if another process removed it first or it cannot be removed.
    """
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
