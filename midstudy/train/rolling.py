"""Rolling checkpoints: what an interrupted attempt goes on from. Never a parent of a stage, and deleted with the attempt."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from midstudy.train.checkpoint import CheckpointError, check

_logger = logging.getLogger(__name__)
_PREFIX = "step-"


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    found = []
    for path in folder.glob(f"{_PREFIX}*"):
        number = path.name.removeprefix(_PREFIX)
        if number.isdigit():
            found.append((int(number), path))
    return sorted(found)


def latest_valid(*folders: Path, until_step: int | None = None) -> Path | None:
    """The rolling checkpoint of the highest step in any of these folders that is whole; none where there is none.

    With `until_step`, those of later steps are left out.

    A damaged one is passed over with a warning, in favour of the one before it.
    """
    found = sorted((entry for folder in folders for entry in _checkpoints(folder)), key=lambda entry: entry[0])
    for step, path in reversed(found):
        if until_step is not None and step > until_step:
            continue
        try:
            check(path)
        except CheckpointError as error:
            _logger.warning("passing over a damaged checkpoint: %s", error)
            continue
        return path
    return None


@dataclass(kw_only=True)
class Rolling:
    """Where and how often a run saves itself: every `every_s` seconds, at the next step boundary, keeping the last `keep`.

    Two are kept, so that the one before is there if the last one turns out damaged.
    """

    folder: Path
    every_s: float
    keep: int = 2
    saved_step: int | None = field(default=None, init=False)
    """The step of the last checkpoint that was saved here by this object."""
    _last_save: float = field(default_factory=time.monotonic, init=False, repr=False)

    def due(self) -> bool:
        return time.monotonic() - self._last_save >= self.every_s

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Let `write` make the checkpoint of `step`, and delete those beyond `keep`."""
        path = self.folder / f"{_PREFIX}{step:08d}"
        if path.exists():  # this attempt passed here before and fell back to an older one: this one was damaged
            shutil.rmtree(path)
        write(path)
        self._last_save, self.saved_step = time.monotonic(), step
        for _, old in _checkpoints(self.folder)[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
