"""An attempt at a stage: a separate folder that is published by one atomic rename, or left behind.

A stage may run twice if a cluster misreports a job, but it is published only once. An attempt collects its files in its
`result/` folder and publishes them by renaming that folder to the stage's `published`. The rename fails if `published`
already exists (POSIX: a directory cannot replace a non-empty directory).
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
    """One attempt at a stage. Files for publication go into `result`, rolling checkpoints into `checkpoints`.

    It holds a lock until it ends, so that other processes do not treat its files as leftovers.

    Raises:
        StoreError: the store cannot be written, or the folder of attempts is a symbolic link.
    """

    def __init__(self, paths: StorePaths, stage_id: str) -> None:
        self._paths, self._stage_id = paths, stage_id
        began = datetime.now(UTC)
        # The time comes first and in microseconds, so that names sort by age.
        self.name = f"{began:%Y%m%dT%H%M%S.%f}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.folder = paths.attempts(stage_id) / self.name
        self.result = self.folder / RESULT_FOLDER
        self.checkpoints = self.folder / CHECKPOINTS_FOLDER
        attempts = self.folder.parent
        if attempts.is_symlink():
            raise StoreError(f"{attempts}: expected a folder, got a symbolic link to {os.readlink(attempts)}. Remove it.")
        try:
            self.folder.mkdir(parents=True)
            self._lock = (self.folder / LOCK_FILE).open("w")
            with contextlib.suppress(OSError):  # a file system without locks: `is_alive` then reports every attempt as alive
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
        """Sync the logged metrics to disk."""
        os.fsync(self._metrics.fileno())

    def begin_steps(self, step: int) -> None:
        """Record the step from which this attempt trains, so that repeated steps can be counted.

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
        """Record the current step. This takes two microseconds and survives the process, but not a loss of power."""
        assert self._steps is not None
        with contextlib.suppress(OSError):
            os.pwrite(self._steps.fileno(), f"{step:20d}".encode("ascii"), 20)

    def take_over_metrics(self, folder: Path, *, until_step: int) -> None:
        """Copy the metrics of the previous attempt in `folder`, up to `until_step`, to the start of this attempt's metrics.

        An attempt that resumes from a checkpoint of that attempt calls this, so that the published curve is complete.
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
        """Publish `result/` with its record. Return False if another attempt published first; its result is kept.

        The environment in the record includes `placement` and the stage's interrupted jobs.

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
            # The attempt that publishes first removes the folders of all others, so this attempt's folder may be gone.
            if self._paths.record(self._stage_id).exists():
                self.discard()
                return False
            if isinstance(error, StoreError):
                raise
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise StoreError(
                    f"{published}: it has files but no record. Remove the folder to make the stage again."
                ) from error
            raise unwritable(published, error) from error
        sync(published.parent)
        with contextlib.suppress(OSError):
            self._paths.failure(self._stage_id).unlink(missing_ok=True)
            self._paths.interruptions(self._stage_id).unlink(missing_ok=True)
            # Remove all attempts. The rename comes first, so that a concurrent attempt fails at once.
            leftovers = published.with_name(f".attempts-{uuid.uuid4().hex[:8]}")
            self._paths.attempts(self._stage_id).rename(leftovers)
            shutil.rmtree(leftovers, ignore_errors=True)  # a concurrent attempt may be removing its folder
        self._lock.close()
        return True

    def _interruptions(self) -> dict[str, Any]:
        with contextlib.suppress(StoreError):  # a damaged file must not prevent publication
            if interruptions := read_interruptions(self._paths.interruptions(self._stage_id)):
                return {"interruptions": interruptions}
        return {}

    def discard(self) -> None:
        """Remove the attempt's folder."""
        self._close_files()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def close(self) -> None:
        """Close the attempt and keep its folder, so that a later attempt can resume from its checkpoints."""
        self._close_files()
        self._lock.close()

    def _close_files(self) -> None:
        self._metrics.close()
        if self._steps is not None:
            self._steps.close()


def _settle_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Sync everything below `folder` to disk; return the size and digest of each file by its path relative to `folder`."""
    files = {}
    for path in sorted(folder.rglob("*")):
        sync(path)
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = digest_file(path)
    return files


def steps_of(attempt: Path) -> tuple[int, int] | None:
    """Return the first and the current step of an attempt's training; `None` if it did not train."""
    try:
        text = (attempt / STEPS_FILE).read_text("ascii")
        return int(text[:20]), int(text[20:])
    except (OSError, ValueError):
        return None


def read_interruptions(path: Path) -> list[dict[str, Any]]:
    """Return the jobs that were interrupted during a stage; an empty list if the file does not exist.

    Raises:
        StoreError: the file is damaged.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise StoreError(f"{path}: damaged ({error}). Remove it; the count of interruptions then restarts at 0.") from error


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a metrics file, if it exists. An incomplete last line, left by a crash, is skipped.

    Raises:
        StoreError: another line is not valid JSON, since the file was damaged or edited.
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
