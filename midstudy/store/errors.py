"""What can be wrong with a store: which path, what was found, what to do."""

from __future__ import annotations

from pathlib import Path


class StoreError(ValueError):
    """The store cannot be used as it is; the message names the path and the next step."""


class RecipeMismatchError(StoreError):
    """A stage on disk was made from another recipe than the one asked for, under one id."""


def unwritable(path: Path, error: OSError) -> StoreError:
    """A full disk or a folder without permission, as one message."""
    return StoreError(
        f"{path}: cannot be written ({error.strerror or error}). "
        "Free space or fix the permissions, or name another folder with --store; finished stages are untouched."
    )
