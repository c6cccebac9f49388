"""The starts of a job, one line each: a cluster restarts a job after preemption, its time limit or the loss of its node.

The cluster does so any number of times without asking a driver. The job therefore counts its own starts, and fails a stage
that makes no progress over several of them. If a cluster wrongly reports a node as lost, the process of an earlier start may
still be alive: this file tells it that a later start has replaced it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import socket
from dataclasses import dataclass

from midstudy.launch import clock
from midstudy.launch.job_file import Job
from midstudy.store.attempt import CHECKPOINTS_FOLDER
from midstudy.store.store import Store

MOST_WITHOUT_PROGRESS = 5
"""A stage fails after this many consecutive starts that found the job without any progress."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A start of a job: when (`time`, Unix seconds), where, and a digest of the progress it found."""

    time: float
    host: str
    pid: int
    slurm_id: str | None
    node: str | None
    progress: str

    @property
    def place(self) -> str:
        """Where the start ran, as text for the user."""
        return f"Slurm job {self.slurm_id} on node {self.node}" if self.slurm_id else f"process {self.pid} on {self.host}"


def begin(store: Store, job: Job, *, slurm_id: str | None) -> Start:
    """Append this start to the job's file and return it.

    Raises:
        OSError: the store cannot be written.
    """
    start = Start(
        time=clock.now(),
        host=socket.gethostname(),
        pid=os.getpid(),
        slurm_id=slurm_id,
        node=os.environ.get("SLURMD_NODENAME") if slurm_id else None,
        progress=_progress(store, job),
    )
    with store.paths.job_starts(job.name).open("a", encoding="utf-8") as file:
        torn = "\n" if file.tell() else ""  # after a power loss, the previous line may lack its newline
        file.write(f"{torn}{json.dumps(dataclasses.asdict(start))}\n")
    return start


def starts(store: Store, job_name: str) -> list[Start]:
    """Return the starts of a job, oldest first."""
    try:
        lines = store.paths.job_starts(job_name).read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    parsed = []
    for line in lines:
        try:
            parsed.append(Start(**json.loads(line)))
        except (ValueError, TypeError):  # cut off by a crash
            continue
    return parsed


def num_without_progress(job_starts: list[Start]) -> int:
    """Return how many of the most recent starts found the job with the same progress."""
    number = 0
    for start in reversed(job_starts):
        if start.progress != job_starts[-1].progress:
            break
        number += 1
    return number


def _progress(store: Store, job: Job) -> str:
    """Return a digest of a job's progress: its settled stages and the checkpoints of its current stage."""
    digest = hashlib.sha256()
    for stage_id in job.stage_ids:
        if store.has(stage_id) or failed_in(store, job, stage_id):
            digest.update(stage_id.encode())
            continue
        folders = (attempt / CHECKPOINTS_FOLDER for attempt in store.previous_attempts(stage_id))
        names = {path.name for folder in folders if folder.exists() for path in folder.iterdir()}
        digest.update("\n".join(sorted(names)).encode())
        break
    return digest.hexdigest()[:16]


def failed_in(store: Store, job: Job, stage_id: str) -> bool:
    """Return whether a stage has failed in this job, which does not retry it."""
    failure = store.failure(stage_id)
    return failure is not None and failure.get("job") == job.name
