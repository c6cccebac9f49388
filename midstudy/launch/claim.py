"""Claims: which job runs a stage. Written before the job starts, so that two drivers on one store do not both start it.

A claim names a job and is valid until that job has ended or is known to be dead. It is created with an atomic link, which
fails if a claim exists; a stale claim is taken over under a lock of the store. Records do not depend on claims: if claim
and lock both failed, a stage would run twice and still be published once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Collection, Iterator

from midstudy.files.errors import StoreError, unwritable
from midstudy.files.reading import read_object
from midstudy.launch import clock
from midstudy.launch.job_file import Job, job_end, read_job
from midstudy.store.store import Store


def claim(store: Store, stage_id: str, job: Job, *, dead: Collection[str] = ()) -> Job | None:
    """Claim a stage for `job`; return None on success, else the job that holds the claim.

    Args:
        dead: names of jobs without an end.json whose backend reported them gone. Any other job keeps its claim.

    Raises:
        StoreError: the store cannot be written, or a claim is damaged.
    """
    path = store.paths.claim(stage_id)
    mine = path.with_name(f".claim.{job.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with mine.open("w", encoding="utf-8") as file:
            json.dump({"job": job.name, "time": clock.now()}, file)
            file.flush()
            os.fsync(file.fileno())  # after a power loss, an empty claim would stay damaged permanently
        try:
            with contextlib.suppress(FileExistsError):
                os.link(mine, path)
                return None
            with lock(store):
                holder = holder_of(store, stage_id)
                if holder is not None and holder.name != job.name and holder.name not in dead:
                    return holder
                mine.replace(path)
                return None
        finally:
            mine.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def claimed_by(store: Store, stage_id: str) -> str | None:
    """Return the name of the job that runs a stage, or was the last to try; None if the stage was never claimed.

    Raises:
        StoreError: the claim is damaged.
    """
    path = store.paths.claim(stage_id)
    try:
        return str(read_object(path, needs=("job",), remedy="Remove it if no job is running the stage.")["job"])
    except FileNotFoundError:
        return None


def is_taken_over(store: Store, stage_id: str, job_name: str) -> bool:
    """Return whether another job has taken a stage over from this one. False if the claim is damaged."""
    with contextlib.suppress(StoreError):
        return claimed_by(store, stage_id) not in (job_name, None)
    return False


def holder_of(store: Store, stage_id: str) -> Job | None:
    """Return the job that holds a stage's claim and has not written its end, alive or not; None if there is none.

    Raises:
        StoreError: the claim or the job's end.json is damaged.
    """
    name = claimed_by(store, stage_id)
    if name is None:
        return None
    try:
        job = read_job(store, name)
    except StoreError:
        return None  # its folder was removed or damaged, so it cannot be followed
    return job if stage_id in job.stage_ids and job_end(store, name) is None else None


@contextlib.contextmanager
def lock(store: Store) -> Iterator[None]:
    """Hold the store's lock, under which drivers take over claims and count interruptions.

    Raises:
        StoreError: the store cannot be written.
    """
    path = store.paths.claims_lock
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("a"))
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise unwritable(path, error) from error
        yield
