"""slurm.json beside a job's job.json: under which name and number Slurm knows it.

It is written before the job is submitted, without the number, and again with it: a driver that dies in between leaves enough
to find the job by.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from midstudy.files.atomic import write_json
from midstudy.files.errors import StoreError
from midstudy.launch.launcher import Exit
from midstudy.store.store import Store


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A job as it was given to Slurm. `index` is its place in an array, `id` is none until Slurm has answered.

    `submitted_at` is in Unix seconds by the driver's clock. `ended` is an end that was believed: the job is cancelled
    then, so that it cannot come back, and Slurm says no more than that it was cancelled.
    """

    name: str
    index: int | None
    submitted_at: float
    id: str | None = None
    ended: Exit | None = None


def write_submission(store: Store, job: str, submission: Submission) -> None:
    """Write slurm.json.

    Raises:
        StoreError: the store cannot be written.
    """
    write_json(store.paths.job_slurm(job), dataclasses.asdict(submission))


def read_submission(store: Store, job: str) -> Submission | None:
    """How a job was given to Slurm; none where it never was.

    Raises:
        StoreError: the file was damaged.
    """
    path = store.paths.job_slurm(job)
    try:
        fields = json.loads(path.read_text("utf-8"))
        fields["ended"] = Exit(**fields["ended"]) if fields.get("ended") else None
        return Submission(**fields)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError) as error:
        raise StoreError(f"{path}: damaged ({error!r}). Remove {path.parent}; its stages will be run again.") from error
