"""What is written down of a job: what it carries, which process runs it, how it ended.

job.json        the job's stages and how to run them; written before the job is submitted
process.json    the process that runs it; written once it is started
cancelled       somebody asked for its end
end.json        how it ended; written by the job, or for it where it was found dead
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
from midstudy.files.reading import read_object, require_fields
from midstudy.launch import clock
from midstudy.launch.process import Process, find_by_argument
from midstudy.store.leftovers import entries
from midstudy.store.paths import is_name
from midstudy.store.store import Store
from midstudy.train.placement import Placement

EXECUTE_STAGE = "midstudy.execute.stage:execute_stage"
"""The function that makes one stage, as MODULE:FUNCTION; its contract is `launch.job.ExecuteStage`."""


@dataclass(frozen=True, kw_only=True)
class JobStage:
    """One stage of a job: the kept state it goes on from comes with the plan, not with the recipe."""

    id: str
    start_from: str | None
    keeps_optimizer: bool


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job: stages that one process, or the ranks of one training run, make one after the other.

    `driver` answers for it: it submitted the job, or took it over from the last of its `former_drivers`. `entry` is the
    function that makes a stage.
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
    """A new name that says which stage the job begins with; no '_', which submitit reads as an array's index."""
    return f"{first_stage_id}-{uuid.uuid4().hex[:8]}"


def write_job(store: Store, job: Job) -> None:
    """Write job.json.

    Raises:
        StoreError: the store cannot be written.
    """
    write_json(store.paths.job_spec(job.name), dataclasses.asdict(job))


def read_job(store: Store, name: str) -> Job:
    """The job called `name`.

    Raises:
        StoreError: there is none, or its file was damaged.
    """
    path = store.paths.job_spec(name)
    remedy = _remedy(path)
    try:
        fields = read_object(path, fields=_JOB, remedy=remedy)
        for number, stage in enumerate(fields["stages"]):
            require_fields(path, stage, {"id": str}, where=f"stages[{number}]", remedy=remedy)
        fields["stages"] = tuple(JobStage(**stage) for stage in fields["stages"])
        fields["driver"] = Process(**fields["driver"])
        fields["former_drivers"] = tuple(Process(**driver) for driver in fields.get("former_drivers", ()))
        fields["placement"] = Placement(**fields["placement"])
        return Job(**fields)
    except FileNotFoundError:
        raise StoreError(f"{path}: no such job.") from None
    except TypeError as error:  # fields that are missing, or that nobody knows
        raise StoreError(f"{path}: damaged ({error}). {remedy}") from error


_JOB = {**dict.fromkeys(("name", "study", "backend", "entry"), str), "stages": list, "placement": dict, "driver": dict}
_PROCESS = {"pid": int, "start_ticks": int, "host": str, "boot_id": str}


def _remedy(path: Path) -> str:
    return f"Remove {path.parent}; its stages will be run again."


def write_process(store: Store, name: str, process: Process) -> None:
    """Write down which process runs a job; it leads a session of its own."""
    write_json(store.paths.job_process(name), dataclasses.asdict(process))


def job_process(store: Store, name: str) -> Process | None:
    """The process that runs, or ran, a job; none where none was ever seen.

    A driver can die between starting a job and writing its process down: then it is found by its command line, which
    names submitit's folder of this job and of no other.
    """
    path = store.paths.job_process(name)
    try:
        found = read_object(path, fields=_PROCESS, remedy=_remedy(path))
    except FileNotFoundError:
        return find_by_argument(str(store.paths.job_submitit(name)))
    return Process(**{name: found[name] for name in _PROCESS})


End = Literal["done", "stopped", "cut short", "gone"]
"""Ran through its stages; ended early as it was told to, or because a rank was lost; left stages that it had not begun,
because one failed or because another job has taken them over; found dead without having said anything."""


def write_end(store: Store, name: str, end: End) -> None:
    write_json(store.paths.job_end(name), {"end": end, "time": clock.now()})


def job_end(store: Store, name: str) -> End | None:
    """How a job ended; none while it runs, and after it was killed.

    Raises:
        StoreError: the file was damaged.
    """
    path = store.paths.job_end(name)
    try:
        return read_object(path, fields={"end": str}, remedy=_remedy(path))["end"]
    except FileNotFoundError:
        return None


def is_cancelled(store: Store, name: str) -> bool:
    return store.paths.job_cancelled(name).exists()


def mark_cancelled(store: Store, name: str) -> None:
    """Ask for a job's end: it looks before every stage, and gets a signal for the stage it is in."""
    with contextlib.suppress(OSError):  # a full disk keeps nobody from ending a job: the signal is sent all the same
        store.paths.job_cancelled(name).touch()


def unended_jobs(store: Store) -> Iterator[Job]:
    """Jobs that did not say how they ended: running ones, and killed ones nobody has noticed yet."""
    for name in job_names(store):
        if not store.paths.job_end(name).exists() and store.paths.job_spec(name).exists():
            yield read_job(store, name)


def job_names(store: Store) -> list[str]:
    """Every job the store knows of."""
    return [path.name for path in entries(store.paths.jobs.resolve()) if is_name(path.name)]


def job_log(store: Store, name: str) -> Path | None:
    """The file that the output of a job's first rank goes to; none before it was started."""
    logs = sorted(store.paths.job_submitit(name).glob("*_0_log.out"))
    return logs[-1] if logs else None
