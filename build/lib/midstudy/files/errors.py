"""What can be wrong with a store: which path, what was found, what to do."""

from __future__ import annotations

import errno
from pathlib import Path


class StoreError(ValueError):
    """The store cannot be used as it is; the message names the path and the next step."""


class RecipeMismatchError(StoreError):
    """A stage on disk was made from another recipe than the one asked for, under one id."""


class DamagedFileError(StoreError):
    """A file of a finished stage is missing or differs in size from its record."""


class UnwritableError(StoreError):
    """The store cannot be written; `may_pass` where that can end by itself: a full disk that somebody frees."""

    def __init__(self, text: str, *, may_pass: bool) -> None:
        super().__init__(text)
        self.may_pass = may_pass


_MAY_PASS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)


def unwritable(path: Path, error: OSError) -> UnwritableError:
    """A full disk or a folder without permission, as one message."""
    return UnwritableError(
        f"{path}: cannot be written ({error.strerror or error}). "
        "Free space or fix the permissions, or name another folder with --store; finished stages are untouched.",
        may_pass=error.errno in _MAY_PASS,
    )
