"""An attempt at a stage: a folder of its own, published by one atomic rename or left behind.

Work may run twice when a cluster lies; it is published once. What is to be published is gathered in the attempt's
`result/` folder; publication is a rename of that folder onto the stage's `published`, which fails where a published
folder already is (POSIX: a directory cannot replace a directory that is not empty).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import resource
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from midstudy.files.atomic import sync, write_bytes
from midstudy.files.errors import StoreError, unwritable
from midstudy.store.environment import describe_environment
from midstudy.store.paths import StorePaths
from midstudy.store.record import SCHEMA, Record, digest_file

METRICS_FILE = "metrics.jsonl"
STEPS_FILE = "steps"
RESULT_FOLDER = "result"
CHECKPOINTS_FOLDER = "checkpoints"
LOCK_FILE = "lock"


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Attempt:
    """One try at a stage. Files for publication go into `result`, rolling checkpoints into `checkpoints`.

    It holds a lock until it ends, so that nobody takes what it is at work on for something left behind.

    Raises:
        StoreError: the store cannot be written, or its place leads out of it.
    """

    def __init__(self, paths: StorePaths, stage_id: str) -> None:
        self._paths, self._stage_id = paths, stage_id
        began = datetime.now(UTC)
        # The time comes first and in microseconds, so that names sort by age.
        self.name = f"{began:%Y%m%dT%H%M%S.%f}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.folder = paths.attempts(stage_id) / self.name
        self.result = self.folder / RESULT_FOLDER
        self.checkpoints = self.folder / CHECKPOINTS_FOLDER
        place = self.folder.parent
        if place.is_symlink():
            raise StoreError(f"{place}: a symbolic link to {os.readlink(place)}, which is no place for attempts. Remove it.")
        try:
            self.folder.mkdir(parents=True)
            self._lock = (self.folder / LOCK_FILE).open("w")
            with contextlib.suppress(OSError):  # no locks on this file system: nobody can take one then, and all keep off
                fcntl.flock(self._lock, fcntl.LOCK_EX)
            self.result.mkdir()
            self._metrics = (self.result / METRICS_FILE).open("a", encoding="utf-8")
        except OSError as error:
            raise unwritable(self.folder, error) from error
        self._steps: io.FileIO | None = None
        self._started_at, self._cpu_before_s = began.timestamp(), _cpu_s()

    def log_metrics(self, values: dict[str, Any]) -> None:
        """Append one line, with the Unix time, to the attempt's metrics file.

        Raises:
            StoreError: the disk is full.
        """
        self._append({"time": time.time(), **values})

    def sync_metrics(self) -> None:
        """Bring what was logged to the disk."""
        os.fsync(self._metrics.fileno())

    def begin_steps(self, step: int) -> None:
        """Write down from which step this attempt trains, for the count of steps that are computed again.

        Raises:
            StoreError: the disk is full.
        """
        path = self.folder / STEPS_FILE
        try:
            self._steps = path.open("wb", buffering=0)
            self._steps.write(f"{step:20d}{step:20d}".encode("ascii"))
        except OSError as error:
            raise unwritable(path, error) from error

    def note_step(self, step: int) -> None:
        """Write down how far it has come: two microseconds, and not lost with the process, though with the host's power."""
        assert self._steps is not None
        with contextlib.suppress(OSError):
            os.pwrite(self._steps.fileno(), f"{step:20d}".encode("ascii"), 20)

    def take_over_metrics(self, folder: Path, *, until_step: int) -> None:
        """Begin the metrics with those of the former attempt in `folder`, up to `until_step`.

        Called by an attempt that goes on from one of these checkpoints, so that what is published is the whole curve.
        """
        for line in read_metrics(folder / RESULT_FOLDER / METRICS_FILE):
            if line.get("step", 0) <= until_step:
                self._append(line)

    def _append(self, line: dict[str, Any]) -> None:
        try:
            self._metrics.write(json.dumps(line) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise unwritable(self.result / METRICS_FILE, error) from error

    def publish(
        self,
        *,
        kind: str,
        label: str,
        recipe: Any,
        canonical: Any,
        parents: tuple[str, ...],
        metrics: dict[str, Any],
        placement: dict[str, Any] | None = None,
    ) -> bool:
        """Publish `result/` with its record; false where another attempt was first, whose result then stands.

        `placement` is recorded with the environment, and so are the jobs that were interrupted while they made the stage.

        Raises:
            StoreError: the disk is full or the store cannot be written; nothing is published.
        """
        self._close_files()
        published = self._paths.published(self._stage_id)
        now = time.time()
        try:
            if (self.result / METRICS_FILE).stat().st_size == 0:
                (self.result / METRICS_FILE).unlink()
            record = Record(
                schema=SCHEMA,
                id=self._stage_id,
                kind=kind,
                label=label,
                recipe=recipe,
                canonical=canonical,
                parents=parents,
                metrics=metrics,
                files=_settle_files(self.result),
                environment={**describe_environment(), "placement": placement, **self._interruptions()},
                timing={
                    "started_at": self._started_at,
                    "finished_at": now,
                    "wall_s": now - self._started_at,
                    "cpu_s": _cpu_s() - self._cpu_before_s,
                },
                attempt=self.name,
            )
            write_bytes(self.result / "record.json", record.as_bytes())
            os.rename(self.result, published)
        except (OSError, StoreError) as error:
            # The winner of a race removes what its rivals left, so a loser may also find its own folder gone.
            if self._paths.record(self._stage_id).exists():
                self.discard()
                return False
            if isinstance(error, StoreError):
                raise
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise StoreError(
                    f"{published}: holds files but no record. Remove the folder to make the stage again."
                ) from error
            raise unwritable(published, error) from error
        sync(published.parent)
        with contextlib.suppress(OSError):
            self._paths.failure(self._stage_id).unlink(missing_ok=True)
            self._paths.interruptions(self._stage_id).unlink(missing_ok=True)
            # Former attempts and their checkpoints go too; renamed first, so that a rival that still writes is out at once.
            leftovers = published.with_name(f".attempts-{uuid.uuid4().hex[:8]}")
            self._paths.attempts(self._stage_id).rename(leftovers)
            shutil.rmtree(leftovers, ignore_errors=True)  # a rival may be removing its own folder in there right now
        self._lock.close()
        return True

    def _interruptions(self) -> dict[str, Any]:
        with contextlib.suppress(StoreError):  # a damaged list costs no finished work
            if known := read_interruptions(self._paths.interruptions(self._stage_id)):
                return {"interruptions": known}
        return {}

    def discard(self) -> None:
        """Remove the attempt's folder."""
        self._close_files()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def close(self) -> None:
        """Leave the attempt as it is, for a later one to go on from its checkpoints."""
        self._close_files()
        self._lock.close()

    def _close_files(self) -> None:
        self._metrics.close()
        if self._steps is not None:
            self._steps.close()


def _settle_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Bring everything below `folder` to the disk; size and digest of each file by its path below `folder`."""
    files = {}
    for path in sorted(folder.rglob("*")):
        sync(path)
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = digest_file(path)
    return files


def steps_of(attempt: Path) -> tuple[int, int] | None:
    """The steps that an attempt trained from and came to; none where it did not train."""
    try:
        text = (attempt / STEPS_FILE).read_text("ascii")
        return int(text[:20]), int(text[20:])
    except (OSError, ValueError):
        return None


def read_interruptions(path: Path) -> list[dict[str, Any]]:
    """The jobs that were interrupted in the middle of a stage; none where there is no file.

    Raises:
        StoreError: the file was damaged.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise StoreError(f"{path}: damaged ({error}). Remove it; runs are then counted anew.") from error


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics file, none where there is no file; a last line torn by a crash is left out.

    Raises:
        StoreError: a line before the last is no JSON object: the file was damaged or edited.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return
            try:
                values = json.loads(line)
            except ValueError as error:
                raise StoreError(f"{path}:{number}: damaged ({error}). Remove the line to read the rest.") from error
            yield values
