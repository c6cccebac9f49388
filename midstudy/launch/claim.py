"""Which job is making a stage: written down before the job starts, so that two drivers on one store do not both start it.

A claim names a job, and holds as long as that job is alive or its driver is about to start it. It is made with an atomic
link that fails where a claim is; one that no longer holds is taken over under a lock of the store. Records do not depend
on claims: were both to fail, work would run twice and be published once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator

from midstudy.launch.job_file import Job, is_live, read_job
from midstudy.store.errors import StoreError, unwritable
from midstudy.store.reading import read_object
from midstudy.store.store import Store


def claim(store: Store, stage_id: str, job: Job) -> Job | None:
    """Claim a stage for `job`; none where that succeeded, else the live job that has it.

    Raises:
        StoreError: the store cannot be written, or a claim was damaged.
    """
    path = store.paths.claim(stage_id)
    mine = path.with_name(f".claim.{job.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text(json.dumps({"job": job.name, "time": time.time()}), "utf-8")
        try:
            with contextlib.suppress(FileExistsError):
                os.link(mine, path)
                return None
            with _lock(store):
                holder = _holder(store, stage_id)
                if holder is not None and holder.name != job.name:
                    return holder
                mine.replace(path)
                return None
        finally:
            mine.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def claimed_by(store: Store, stage_id: str) -> str | None:
    """Name of the job that is making a stage, or was the last to try."""
    path = store.paths.claim(stage_id)
    try:
        return read_object(path, fields={"job": str}, remedy="Remove it if no job is making the stage.")["job"]
    except FileNotFoundError:
        return None


def _holder(store: Store, stage_id: str) -> Job | None:
    """The live job that has a stage."""
    name = claimed_by(store, stage_id)
    if name is None:
        return None
    try:
        job = read_job(store, name)
    except StoreError:
        return None  # its folder was removed or damaged: nobody could follow it
    if stage_id not in job.stage_ids:
        return None
    return job if is_live(store, job) else None


@contextlib.contextmanager
def _lock(store: Store) -> Iterator[None]:
    with store.paths.claims_lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
