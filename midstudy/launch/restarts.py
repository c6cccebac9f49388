"""The starts of a job, one line each: a cluster starts a job anew after it was preempted, timed out, or lost its node.

It does so without asking a driver, as often as it likes; so the job itself counts, and gives a stage up that start after
start does not get on with. And where a cluster lies, the process of an earlier start may be alive: it finds here that it is
not the last.
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
"""Starts in a row that found a job exactly where the one before had found it."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A start of a job: when (Unix seconds), where, and a digest of what it found done."""

    time: float
    host: str
    pid: int
    slurm_id: str | None
    node: str | None
    progress: str

    @property
    def place(self) -> str:
        """For people."""
        return f"Slurm job {self.slurm_id} on node {self.node}" if self.slurm_id else f"process {self.pid} on {self.host}"


def begin(store: Store, job: Job, *, slurm_id: str | None) -> Start:
    """Write this start down."""
    start = Start(
        time=clock.now(),
        host=socket.gethostname(),
        pid=os.getpid(),
        slurm_id=slurm_id,
        node=os.environ.get("SLURMD_NODENAME") if slurm_id else None,
        progress=_progress(store, job),
    )
    with store.paths.job_starts(job.name).open("a", encoding="utf-8") as file:
        torn = "\n" if file.tell() else ""  # the line before may lack its end, after a loss of power
        file.write(f"{torn}{json.dumps(dataclasses.asdict(start))}\n")
    return start


def starts(store: Store, job_name: str) -> list[Start]:
    """The starts of a job, the last one last."""
    try:
        lines = store.paths.job_starts(job_name).read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(Start(**json.loads(line)))
        except (ValueError, TypeError):  # torn by a crash
            continue
    return found


def num_without_progress(found: list[Start]) -> int:
    """How many of the last starts found the job in the same place."""
    number = 0
    for start in reversed(found):
        if start.progress != found[-1].progress:
            break
        number += 1
    return number


def _progress(store: Store, job: Job) -> str:
    """A digest of what is done of a job: its stages that are settled, and the checkpoints of the one it is at."""
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
    """Whether a stage has failed in this job, which does not try it again."""
    failure = store.failure(stage_id)
    return failure is not None and failure.get("job") == job.name
