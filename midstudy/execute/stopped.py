"""What a stage raises when it was told to stop and has left its work where the next attempt finds it."""

from __future__ import annotations


class StoppedError(RuntimeError):
    """The job was told to stop; nothing that was worth keeping is lost."""
