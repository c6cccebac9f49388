"""slurm.json, next to a job's job.json: the job's Slurm name and id.

It is written without the id before the job is submitted, and again with the id afterwards. If the driver dies in between,
the job can still be found by its name.
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
    """A job as submitted to Slurm.

    `index` is its task index in an array, None for a single job. `id` is None until Slurm has answered. `submitted_at` is in
    Unix seconds by the driver's clock. `ended` is set once the job is declared ended: it is then cancelled so that it cannot
    come back, after which Slurm reports only the cancellation.
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
    """Return a job's submission; None if it was never submitted.

    Raises:
        StoreError: slurm.json is damaged.
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
