"""Write a new folder atomically: it appears complete or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from midstudy.files.atomic import sync


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a hidden folder next to `folder`, sync it to disk and rename it.

    On any failure, and on Ctrl-C, remove the hidden folder and the parent folders created for it. A process that is killed
    leaves the hidden folder.

    Args:
        folder: must not exist; parent folders are created.

    Raises:
        OSError: the folder cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    above = [parent for parent in folder.parents if not parent.exists()]  # deepest first
    try:
        temporary.mkdir(parents=True)
        write(temporary)
        for path in (*temporary.iterdir(), temporary):
            sync(path)
        os.rename(temporary, folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if not folder.exists():
            for parent in above:
                with contextlib.suppress(OSError):
                    parent.rmdir()
