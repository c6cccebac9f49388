"""What the driver asks of a backend: start jobs, say which have ended, end them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from midstudy.launch.job_file import Job
from midstudy.train.placement import Placement


@dataclass(frozen=True, kw_only=True)
class Exit:
    """How a job's process ended, as far as the backend can tell.

    `by_signal` says that something outside the job's code ended it, so that it may be run again. Of a process that was not
    this one's child nobody can tell: if it said nothing before it ended, it is taken as killed.
    """

    text: str
    by_signal: bool


class Launcher(Protocol):
    """A backend. All calls are about many jobs at once, because a queue is asked about all of them in one call."""

    @property
    def backend(self) -> str:
        """The name that `run --backend` knows it by."""
        ...

    @property
    def placement(self) -> Placement:
        """How each job computes."""
        ...

    @property
    def entry(self) -> str:
        """MODULE:FUNCTION that makes one stage."""
        ...

    def submit(self, job: Job) -> None:
        """Start a job whose job.json is written.

        Raises:
            StoreError: the store cannot be written.
        """
        ...

    def poll(self, jobs: Sequence[Job]) -> dict[str, Exit]:
        """Of these jobs, by name, those that have ended."""
        ...

    def cancel(self, jobs: Sequence[Job]) -> None:
        """End these jobs and wait until they are gone; within seconds, whatever they do."""
        ...
