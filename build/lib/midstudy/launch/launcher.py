"""What the driver asks of a backend: start jobs, say which have ended and how, which are there, end them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from midstudy.launch.job_file import Job
from midstudy.recipe.stage import Stage
from midstudy.train.placement import Placement

Cause = Literal["preempted", "timed out", "node failed", "out of memory", "killed", "cancelled", "lost", "exited"]
"""Why a job ended before it had made its stages. It bounds how often the stage is run again (`driver.MAX_RUNS_AGAIN`):

preempted      told to stop to make room, or by anybody but its driver; it saved itself or was ended
timed out      at its time limit
node failed    with its node
out of memory  by the kernel or the scheduler, as far as that can be told
killed         by a signal from outside
cancelled      by somebody who asked the scheduler for it
lost           the backend does not know of it, or no longer, and it said nothing
exited         by itself: its code ended it, or crashed
"""


@dataclass(frozen=True, kw_only=True)
class Exit:
    """How a job ended, as far as the backend can tell: `text` for people goes on after "its job NAME …"."""

    text: str
    cause: Cause


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a job could not be submitted.

    `may_pass`: a controller that is away, a limit of the queue, a full disk. The same job is then submitted again later.
    """

    text: str
    may_pass: bool


class Launcher(Protocol):
    """A backend. All calls are about many jobs at once, because a queue is asked about all of them in one call.

    No call waits without a deadline of its own.
    """

    @property
    def backend(self) -> str:
        """The name that `run --backend` knows it by."""
        ...

    @property
    def entry(self) -> str:
        """MODULE:FUNCTION that makes one stage."""
        ...

    @property
    def calls_block(self) -> bool:
        """Whether calls may take long, as a queue's commands do; the driver then makes them in a thread."""
        ...

    def placement_for(self, stages: Sequence[Stage]) -> Placement:
        """How these stages, which share a job, compute."""
        ...

    def pack_key(self, stage: Stage) -> Hashable:
        """Stages of different keys never share a job."""
        ...

    def submit(self, jobs: Sequence[Job]) -> Mapping[str, Refusal]:
        """Start jobs whose job.json is written; returns, by name, those that could not be.

        A job that was refused and may pass is submitted again under its name. Where the answer to an earlier submission was
        lost, the launcher looks first whether that job is there, so that it never starts twice. Nothing is raised: what
        goes wrong is a refusal.
        """
        ...

    def poll(self, jobs: Sequence[Job]) -> Mapping[str, Exit]:
        """Of these jobs, by name, those that have ended. A backend that cannot be asked knows of none."""
        ...

    def live(self, jobs: Sequence[Job]) -> set[str]:
        """Names of those of these jobs, of this or of an earlier driver, that run, wait in the queue, or may do so.

        Where the backend cannot be asked, that is all of them: nobody is declared dead.
        """
        ...

    def cancel(self, jobs: Sequence[Job]) -> None:
        """End these jobs and wait until they are gone; within a deadline, whatever they do."""
        ...
