"""The layout of a store. No other module joins its paths."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from midstudy.files.errors import StoreError

_LONGEST_NAME = 120
"""File names have at most 255 bytes, and the name of a temporary file is longer than the file's own name."""

LONGEST_ROOT = 504 - len("/prefect/prefect.db")
"""SQLite on Unix opens paths of up to 504 bytes: 512 with the journal's suffix."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def checked_name(name: str) -> str:
    """Return `name` if it is safe as the name of a folder.

    Raises:
        StoreError: it is empty, too long, or contains a separator, `..` or characters that are not allowed.
    """
    if not is_name(name):
        shown = name if len(name) <= 100 else f"{name[:100]}… ({len(name)} characters)"
        raise StoreError(
            f"name: expected at most {_LONGEST_NAME} letters, digits, '_', '-' and '.', without '..', that start with a "
            f"letter or digit, got {shown!r}."
        )
    return name


def is_name(name: str) -> bool:
    """Return whether `checked_name` accepts `name`."""
    return len(name) <= _LONGEST_NAME and _NAME.fullmatch(name) is not None and ".." not in name


def checked_root(root: str) -> str:
    """Return `root` if submitit, MLflow and Prefect can use it as a path.

    submitit replaces `%j` and similar in paths; MLflow and Prefect use database URLs and SQLite.

    Raises:
        StoreError: it contains a character that one of them interprets or that cannot be displayed, or it is too long.
    """
    forbidden = sorted({character for character in root if character in "%?#" or not character.isprintable()})
    if forbidden:
        raise StoreError(
            f"{root!r}: expected a store path without {', '.join(map(repr, forbidden))}, which submitit, MLflow or Prefect "
            "would interpret. Name another folder with --store; spaces, quotes and letters of any language are allowed."
        )
    num_bytes = len(os.fsencode(os.path.realpath(root)))
    if num_bytes > LONGEST_ROOT:
        raise StoreError(
            f"{_shown(root)}: expected a store path of at most {LONGEST_ROOT} bytes after following symbolic links, got "
            f"{num_bytes}: SQLite, which MLflow and Prefect use, cannot open longer paths. Name another folder with "
            "--store, or move the store."
        )
    return root


def _shown(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:60]}…{text[-20:]}"


@dataclass(frozen=True)
class StorePaths:
    """Paths below a store's root.

    store.json                              schema version
    stages/ID/recipe.json                   the requested stage
    stages/ID/attempts/ATTEMPT/             result/ (metrics.jsonl and the other files to publish), checkpoints/, lock
    stages/ID/published/                    record.json and the stage's files; appears atomically, never changes
    stages/ID/failure.json                  why the last attempt failed
    stages/ID/interruptions.json            jobs that ended during the stage, after which it was run again
    stages/ID/claim.json                    the job that makes the stage, or the last one that tried
    studies/NAME/                           manifest.json, history/, tables, report/, placement.toml (of the last run),
                                            driver.json and driver.log (of a detached driver), registration.json,
                                            looks.json
    jobs/JOB/                               job.json, process.json or slurm.json, starts.jsonl, end.json, cancelled,
                                            meeting-N (where the ranks of start N meet)
    jobs/JOB/submitit/                      submitit's folder: its pickles, which midstudy never reads, and the log
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

    def registration(self, name: str) -> Path:
        return self.study(name) / "registration.json"

    def looks(self, name: str) -> Path:
        return self.study(name) / "looks.json"

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
