"""Errors of a store: the message names the path, the problem and the fix."""

from __future__ import annotations

import errno
from pathlib import Path


class StoreError(ValueError):
    """The store cannot be used in its current state; the message names the path and the next step."""


class RecipeMismatchError(StoreError):
    """A stage on disk was made from a recipe that differs from the requested one with the same id."""


class DamagedFileError(StoreError):
    """A file of a finished stage is missing or differs in size from its record."""


class UnwritableError(StoreError):
    """The store cannot be written. `may_pass` is True if the cause is often temporary, such as a full disk."""

    def __init__(self, text: str, *, may_pass: bool) -> None:
        super().__init__(text)
        self.may_pass = may_pass


_MAY_PASS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)


def unwritable(path: Path, error: OSError) -> UnwritableError:
    """Return the error for a failed write, such as a full disk or a folder without write permission."""
    return UnwritableError(
        f"{path}: cannot be written ({error.strerror or error}). "
        "Free space or fix the permissions, or name another folder with --store; finished stages are untouched.",
        may_pass=error.errno in _MAY_PASS,
    )
