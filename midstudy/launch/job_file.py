"""The files of a job: its stages, the process that runs it, how it ended.

job.json        the job's stages and how to run them; written before the job is submitted
process.json    the process that runs it; written once it has started
cancelled       exists if the job was asked to end
end.json        how it ended; written by the job, or by a driver that found it dead
"""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from midstudy.files.atomic import write_json
from midstudy.files.errors import StoreError
from midstudy.files.reading import read_as, read_object
from midstudy.launch import clock
from midstudy.launch.process import Process, find_by_argument
from midstudy.store.leftovers import entries
from midstudy.store.paths import is_name
from midstudy.store.store import Store
from midstudy.train.placement import Placement

EXECUTE_STAGE = "midstudy.execute.stage:execute_stage"
"""The function that executes one stage, as MODULE:FUNCTION; called as `execute.stage.execute_stage` is."""


@dataclass(frozen=True, kw_only=True)
class JobStage:
    """One stage of a job, and the kept state it starts from, which depends on the plan and not on the recipe."""

    id: str
    start_from: str | None
    keeps_optimizer: bool


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job: stages that one process, or the ranks of one training run, execute one after the other.

    `driver` is responsible for it: it submitted the job, or took it over from the last of `former_drivers`. `entry` is the
    function that executes a stage.
    """

    name: str
    study: str
    stages: tuple[JobStage, ...]
    backend: str
    placement: Placement
    entry: str
    driver: Process
    former_drivers: tuple[Process, ...] = ()

    @property
    def stage_ids(self) -> tuple[str, ...]:
        return tuple(stage.id for stage in self.stages)


def job_name(first_stage_id: str) -> str:
    """Return a new job name that starts with its first stage's id. No '_', which submitit reads as an array index."""
    return f"{first_stage_id}-{uuid.uuid4().hex[:8]}"


def write_job(store: Store, job: Job) -> None:
    """Write job.json.

    Raises:
        StoreError: the store cannot be written.
    """
    write_json(store.paths.job_spec(job.name), dataclasses.asdict(job))


def read_job(store: Store, name: str) -> Job:
    """Return the job called `name`.

    Raises:
        StoreError: there is no such job, or its file is damaged.
    """
    path = store.paths.job_spec(name)
    try:
        return read_as(path, Job, remedy=_remedy(path))
    except FileNotFoundError:
        raise StoreError(f"{path}: no such job.") from None


def _remedy(path: Path) -> str:
    return f"Remove {path.parent}; its stages will be run again."


def write_process(store: Store, name: str, process: Process) -> None:
    """Write process.json: the process that runs a job and leads its own session."""
    write_json(store.paths.job_process(name), dataclasses.asdict(process))


def job_process(store: Store, name: str) -> Process | None:
    """Return the process that runs or ran a job; None if it has never been seen.

    A driver can die between starting a job and writing process.json. The process is then found by its command line, which
    contains the path of this job's submitit folder.

    Raises:
        StoreError: process.json is damaged.
    """
    path = store.paths.job_process(name)
    try:
        return read_as(path, Process, remedy=_remedy(path))
    except FileNotFoundError:
        return find_by_argument(str(store.paths.job_submitit(name)))


End = Literal["done", "stopped", "cut short", "gone"]
"""How a job ended.

done       ran all of its stages
stopped    ended early because it was asked to, or because a rank was lost
cut short  left its last stages unstarted, because one failed or because another job took them over
gone       found dead, without having reported a result
"""


def write_end(store: Store, name: str, end: End) -> None:
    """Write end.json.

    Raises:
        StoreError: the store cannot be written.
    """
    write_json(store.paths.job_end(name), {"end": end, "time": clock.now()})


def job_end(store: Store, name: str) -> End | None:
    """Return how a job ended; None while it runs, or if it was killed before it could write that.

    Raises:
        StoreError: end.json is damaged.
    """
    path = store.paths.job_end(name)
    try:
        end: End = read_object(path, needs=("end",), remedy=_remedy(path))["end"]
        return end
    except FileNotFoundError:
        return None


def is_cancelled(store: Store, name: str) -> bool:
    """Return whether the job was asked to end."""
    return store.paths.job_cancelled(name).exists()


def mark_cancelled(store: Store, name: str) -> None:
    """Ask a job to end: it checks before every stage. The stage it is in is stopped by a signal."""
    with contextlib.suppress(OSError):  # on a full disk the signal still ends the job
        store.paths.job_cancelled(name).touch()


def unended_jobs(store: Store) -> Iterator[Job]:
    """Yield the jobs that have no end.json: running ones, and killed ones that no driver has noticed yet."""
    for name in job_names(store):
        if not store.paths.job_end(name).exists() and store.paths.job_spec(name).exists():
            yield read_job(store, name)


def job_names(store: Store) -> list[str]:
    """Return the names of all jobs in the store."""
    return [path.name for path in entries(store.paths.jobs.resolve()) if is_name(path.name)]


def job_log(store: Store, name: str) -> Path | None:
    """Return the log file of a job's first rank; None before the job has started."""
    logs = sorted(store.paths.job_submitit(name).glob("*_0_log.out"))
    return logs[-1] if logs else None
