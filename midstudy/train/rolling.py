"""Rolling checkpoints, from which an interrupted attempt resumes.

A rolling checkpoint is never the parent of a stage; it is deleted with its attempt.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from midstudy.train.checkpoint import CheckpointError, check

T = TypeVar("T")

_logger = logging.getLogger(__name__)
_PREFIX = "step-"


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    try:
        paths = list(folder.iterdir())
    except OSError:  # the folder does not exist yet, or the attempt that published has removed it
        return []
    numbers = ((path.name.removeprefix(_PREFIX), path) for path in paths if path.name.startswith(_PREFIX))
    return sorted((int(number), path) for number, path in numbers if number.isdigit())


def newest(read: Callable[[Path], T], *folders: Path, until_step: int | None = None) -> tuple[Path, T] | None:
    """Return the readable rolling checkpoint of the highest step in these folders, and the result of `read` for it.

    A damaged checkpoint is skipped, with a warning that names the file. So is one that disappears while it is read: another
    attempt at the same stage may be running and deletes its own checkpoints.

    Args:
        read: raises `CheckpointError` if the checkpoint is incomplete or damaged.
        until_step: skip checkpoints of later steps.
    """
    checkpoints = sorted((entry for folder in folders for entry in _checkpoints(folder)), key=lambda entry: entry[0])
    for step, path in reversed(checkpoints):
        if until_step is not None and step > until_step:
            continue
        try:
            return path, read(path)
        except CheckpointError as error:
            _logger.warning("skipping a damaged checkpoint: %s", error)
    return None


def latest_valid(*folders: Path, until_step: int | None = None) -> Path | None:
    """Return the complete rolling checkpoint of the highest step in these folders; `None` if there is none.

    With `until_step`, checkpoints of later steps are skipped. Damaged ones are skipped as in `newest`.
    """
    checkpoint = newest(check, *folders, until_step=until_step)
    return checkpoint[0] if checkpoint else None


@dataclass(kw_only=True)
class Rolling:
    """Where and how often a run saves checkpoints: at the first step boundary after `every_s` seconds.

    The last `keep` checkpoints are kept: two, in case the newest is damaged. If writing is slow, checkpoints are less
    frequent, so that writing takes at most the share `most_of_time` of the run's time. `before` is called before each write:
    metrics up to a state must be on disk before the state. `previous` are the folders of previous attempts, whose
    checkpoints are read but never written.
    """

    folder: Path
    every_s: float
    previous: Sequence[Path] = ()
    most_of_time: float = 0.05
    before: Callable[[], None] = lambda: None
    keep: int = 2
    saved_step: int | None = field(default=None, init=False)
    """The step of the last checkpoint that this object saved."""
    _last_save: float = field(default_factory=time.monotonic, init=False, repr=False)
    _write_s: float = field(default=0.0, init=False, repr=False)

    def due(self) -> bool:
        return time.monotonic() - self._last_save >= max(self.every_s, self._write_s / self.most_of_time)

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Write the checkpoint of `step` with `write`, and delete all but the last `keep`."""
        path = self.folder / f"{_PREFIX}{step:08d}"
        if path.exists():  # it was damaged: this attempt saved it, then resumed from an older one
            _remove(path)
        started = time.monotonic()
        self.before()
        write(path)
        self._last_save, self.saved_step = time.monotonic(), step
        self._write_s = self._last_save - started
        for _, old in _checkpoints(self.folder)[: -self.keep]:
            _remove(old)


def newest_step(folder: Path) -> int:
    """Return the highest step saved in a folder, complete or not; 0 if there is none."""
    return max((step for step, _ in _checkpoints(folder)), default=0)


def forget_after(folder: Path, step: int) -> None:
    """Remove the rolling checkpoints of later steps, which were made after training diverged."""
    for number, path in _checkpoints(folder):
        if number > step:
            _remove(path)


def _remove(path: Path) -> None:
    """Rename a checkpoint to a temporary name, then delete it, so that a killed process does not leave half a checkpoint."""
    hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with contextlib.suppress(OSError):
        path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)
