"""Rolling checkpoints: what an interrupted attempt goes on from. Never a parent of a stage, and deleted with the attempt."""

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
    except OSError:  # not begun, or taken away by the attempt that published
        return []
    numbers = ((path.name.removeprefix(_PREFIX), path) for path in paths if path.name.startswith(_PREFIX))
    return sorted((int(number), path) for number, path in numbers if number.isdigit())


def newest(read: Callable[[Path], T], *folders: Path, until_step: int | None = None) -> tuple[Path, T] | None:
    """The rolling checkpoint of the highest step in any of these folders that can be read, and what `read` made of it.

    A damaged one is passed over with a warning that names the file, in favour of the one before it. So is one that goes
    away while it is read: another attempt at the same stage may be alive, and deletes its own as it goes.

    Args:
        read: raises `CheckpointError` where the checkpoint is not whole.
        until_step: leave out those of later steps.
    """
    found = sorted((entry for folder in folders for entry in _checkpoints(folder)), key=lambda entry: entry[0])
    for step, path in reversed(found):
        if until_step is not None and step > until_step:
            continue
        try:
            return path, read(path)
        except CheckpointError as error:
            _logger.warning("passing over a damaged checkpoint: %s", error)
    return None


def latest_valid(*folders: Path, until_step: int | None = None) -> Path | None:
    """The rolling checkpoint of the highest step in any of these folders that is whole; none where there is none.

    With `until_step`, those of later steps are left out. Damaged ones are passed over as by `newest`.
    """
    found = newest(check, *folders, until_step=until_step)
    return found[0] if found else None


@dataclass(kw_only=True)
class Rolling:
    """Where and how often a run saves itself: every `every_s` seconds, at the next step boundary, keeping the last `keep`.

    Where writing takes long, it is done less often: it gets at most the share `most_of_time` of the run's time. `before` is
    called before each: what was reported up to a state must be on the disk before the state is.
    Two are kept in case the newest turns out damaged. `former`: folders of earlier attempts, whose checkpoints are read
    and never written.
    """

    folder: Path
    every_s: float
    former: Sequence[Path] = ()
    most_of_time: float = 0.05
    before: Callable[[], None] = lambda: None
    keep: int = 2
    saved_step: int | None = field(default=None, init=False)
    """The step of the last checkpoint that was saved here by this object."""
    _last_save: float = field(default_factory=time.monotonic, init=False, repr=False)
    _write_s: float = field(default=0.0, init=False, repr=False)

    def due(self) -> bool:
        return time.monotonic() - self._last_save >= max(self.every_s, self._write_s / self.most_of_time)

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Let `write` make the checkpoint of `step`, and delete those beyond `keep`."""
        path = self.folder / f"{_PREFIX}{step:08d}"
        if path.exists():  # this attempt passed here before and fell back to an older one: this one was damaged
            _remove(path)
        began = time.monotonic()
        self.before()
        write(path)
        self._last_save, self.saved_step = time.monotonic(), step
        self._write_s = self._last_save - began
        for _, old in _checkpoints(self.folder)[: -self.keep]:
            _remove(old)


def newest_step(folder: Path) -> int:
    """The highest step saved in a folder, whole or not; 0 where there is none."""
    return max((step for step, _ in _checkpoints(folder)), default=0)


def forget_after(folder: Path, step: int) -> None:
    """Remove the rolling checkpoints of later steps: they were made when training had gone wrong already."""
    for number, path in _checkpoints(folder):
        if number > step:
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a checkpoint under a name that nobody takes for one: a process killed on the way leaves no half of it."""
    hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with contextlib.suppress(OSError):
        path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)
