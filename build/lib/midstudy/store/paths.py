"""The layout of a store: the only place that joins its paths."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from midstudy.files.errors import StoreError

_LONGEST_NAME = 120
"""A file's name has at most 255 bytes, and names of temporary files are longer than the name itself."""

LONGEST_DATABASE = 504
"""Longest path in bytes that SQLite opens on Unix: 512 with the journal's suffix."""

LONGEST_ROOT = LONGEST_DATABASE - len("/prefect/prefect.db")
_LONGEST_PART = 255

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def checked_name(name: str) -> str:
    """`name`, if it can be one folder's name and nothing else.

    Raises:
        StoreError: it is empty, has a separator, `..` or other odd characters.
    """
    if not is_name(name):
        shown = name if len(name) <= 100 else f"{name[:100]}… ({len(name)} characters)"
        raise StoreError(
            f"name {shown!r}: allowed are letters, digits, '_', '-' and '.', beginning with a letter or digit, "
            f"at most {_LONGEST_NAME} of them."
        )
    return name


def is_name(name: str) -> bool:
    """Whether `checked_name` takes it."""
    return len(name) <= _LONGEST_NAME and _NAME.fullmatch(name) is not None and ".." not in name


def checked_root(root: str) -> str:
    """`root`, if everything that works in a store can name it: submitit puts values for `%j` and its like into paths, and
    MLflow and Prefect reach their databases by URL and open them with SQLite.

    Raises:
        StoreError: it contains a character that one of them interprets or that cannot be displayed, or it is too long.
    """
    odd = sorted({one for one in root if one in "%?#" or not one.isprintable()})
    if odd:
        raise StoreError(
            f"{root!r}: a store's path with {', '.join(map(repr, odd))}, which submitit, MLflow or Prefect would read as "
            "something else. Name another folder with --store; spaces, quotes and letters of any language are allowed."
        )
    longest = max((len(os.fsencode(one)) for one in root.split("/")), default=0)
    if longest > _LONGEST_PART:
        raise StoreError(
            f"{_shown(root)}: a store's path with a name of {longest} bytes; allowed: at most {_LONGEST_PART} a name. "
            "Name another folder with --store."
        )
    num_bytes = len(os.fsencode(os.path.realpath(root)))
    if num_bytes > LONGEST_ROOT:
        raise StoreError(
            f"{_shown(root)}: a store's path of {num_bytes} bytes, symbolic links followed; allowed: at most "
            f"{LONGEST_ROOT}, because MLflow and Prefect keep what they show in SQLite, which opens no longer ones. Name "
            "another folder with --store, or move the store."
        )
    return root


def _shown(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:60]}…{text[-20:]}"


@dataclass(frozen=True)
class StorePaths:
    """Paths below a store's root.

    store.json                              schema version
    stages/ID/recipe.json                   what was asked for
    stages/ID/attempts/ATTEMPT/             result/ (metrics.jsonl and what else will be published), checkpoints/, lock
    stages/ID/published/                    record.json and the stage's files; appears at once, never changes
    stages/ID/failure.json                  why the last attempt failed
    stages/ID/interruptions.json            jobs that ended in the middle of it, for which it was run again
    stages/ID/claim.json                    the job that is making it, or was the last to try
    studies/NAME/                           manifest.json, history/, tables, report/, placement.toml (as last run with),
                                            driver.json and driver.log (of a driver that was detached)
    jobs/JOB/                               job.json, process.json or slurm.json, starts.jsonl, end.json, cancelled,
                                            meeting-N (of the ranks of start N)
    jobs/JOB/submitit/                      submitit's own folder: its pickles, which nothing here reads, and the log
    drivers/DRIVER/                         heartbeat, ended, cancel-STUDY
    mlflow/, prefect/                       views
    """

    root: Path

    @property
    def schema(self) -> Path:
        return self.root / "store.json"

    @property
    def stages(self) -> Path:
        return self.root / "stages"

    def stage(self, stage_id: str) -> Path:
        return self.stages / checked_name(stage_id)

    def recipe(self, stage_id: str) -> Path:
        return self.stage(stage_id) / "recipe.json"

    def published(self, stage_id: str) -> Path:
        return self.stage(stage_id) / "published"

    def record(self, stage_id: str) -> Path:
        return self.published(stage_id) / "record.json"

    def attempts(self, stage_id: str) -> Path:
        return self.stage(stage_id) / "attempts"

    def failure(self, stage_id: str) -> Path:
        return self.stage(stage_id) / "failure.json"

    def interruptions(self, stage_id: str) -> Path:
        return self.stage(stage_id) / "interruptions.json"

    def claim(self, stage_id: str) -> Path:
        return self.stage(stage_id) / "claim.json"

    @property
    def studies(self) -> Path:
        return self.root / "studies"

    def study(self, name: str) -> Path:
        return self.studies / checked_name(name)

    def manifest(self, name: str) -> Path:
        return self.study(name) / "manifest.json"

    def placement_file(self, name: str) -> Path:
        return self.study(name) / "placement.toml"

    def detached(self, name: str) -> Path:
        return self.study(name) / "driver.json"

    def detached_log(self, name: str) -> Path:
        return self.study(name) / "driver.log"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    def job(self, name: str) -> Path:
        return self.jobs / checked_name(name)

    def job_spec(self, name: str) -> Path:
        return self.job(name) / "job.json"

    def job_process(self, name: str) -> Path:
        return self.job(name) / "process.json"

    def job_end(self, name: str) -> Path:
        return self.job(name) / "end.json"

    def job_cancelled(self, name: str) -> Path:
        return self.job(name) / "cancelled"

    def job_submitit(self, name: str) -> Path:
        return self.job(name) / "submitit"

    def job_slurm(self, name: str) -> Path:
        return self.job(name) / "slurm.json"

    def job_starts(self, name: str) -> Path:
        return self.job(name) / "starts.jsonl"

    def job_meeting(self, name: str, start: int) -> Path:
        return self.job(name) / f"meeting-{start}"

    @property
    def drivers(self) -> Path:
        return self.root / "drivers"

    def driver(self, key: str) -> Path:
        return self.drivers / checked_name(key)

    def driver_heartbeat(self, key: str) -> Path:
        return self.driver(key) / "heartbeat"

    def driver_cancel(self, key: str, study: str) -> Path:
        return self.driver(key) / f"cancel-{checked_name(study)}"

    @property
    def claims_lock(self) -> Path:
        return self.root / "claims.lock"

    @property
    def mlflow(self) -> Path:
        return self.root / "mlflow"

    @property
    def prefect(self) -> Path:
        return self.root / "prefect"
