"""Which job is making a stage: written down before the job starts, so that two drivers on one store do not both start it.

A claim names a job, and holds until that job has ended or is known to be dead. It is made with an atomic link that fails
where a claim is; one that no longer holds is taken over under a lock of the store. Records do not depend on claims: were
both to fail, work would run twice and be published once.
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
    """Claim a stage for `job`; none where that succeeded, else the job that has it.

    `dead` are names of jobs that said nothing and are gone: somebody asked. A job that is not named there has its claim.

    Raises:
        StoreError: the store cannot be written, or a claim was damaged.
    """
    path = store.paths.claim(stage_id)
    mine = path.with_name(f".claim.{job.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with mine.open("w", encoding="utf-8") as file:
            json.dump({"job": job.name, "time": clock.now()}, file)
            file.flush()
            os.fsync(file.fileno())  # a claim without its text, after a loss of power, would be nobody's for ever
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
    """Name of the job that is making a stage, or was the last to try."""
    path = store.paths.claim(stage_id)
    try:
        return read_object(path, fields={"job": str}, remedy="Remove it if no job is making the stage.")["job"]
    except FileNotFoundError:
        return None


def is_taken_over(store: Store, stage_id: str, job_name: str) -> bool:
    """Whether another job has taken a stage from this one; a damaged claim is nobody's."""
    with contextlib.suppress(StoreError):
        return claimed_by(store, stage_id) not in (job_name, None)
    return False


def holder_of(store: Store, stage_id: str) -> Job | None:
    """The job that has a stage and has not ended, whether it is there or not."""
    name = claimed_by(store, stage_id)
    if name is None:
        return None
    try:
        job = read_job(store, name)
    except StoreError:
        return None  # its folder was removed or damaged: nobody could follow it
    return job if stage_id in job.stage_ids and job_end(store, name) is None else None


@contextlib.contextmanager
def lock(store: Store) -> Iterator[None]:
    """Within: no other driver takes over a claim or counts an interruption.

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
