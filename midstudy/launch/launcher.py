"""The interface between the driver and a backend: submit jobs, report which have ended and how, list live ones, cancel."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from midstudy.launch.job_file import Job
from midstudy.recipe.stage import Stage
from midstudy.train.placement import Placement

Cause = Literal["preempted", "timed out", "node failed", "out of memory", "killed", "cancelled", "lost", "exited"]
"""Why a job ended before it finished its stages. The cause limits how often the stage is retried (`driver.MAX_RUNS_AGAIN`):

preempted      asked to stop by the scheduler, or by anything other than its driver; it saved its work or was killed
timed out      reached its time limit
node failed    its node failed
out of memory  killed by the kernel or the scheduler for its memory use, as far as this can be detected
killed         killed by a signal from outside
cancelled      cancelled through the scheduler, not by its driver
lost           unknown to the backend, and it reported no result
exited         its own code exited or crashed
"""


@dataclass(frozen=True, kw_only=True)
class Exit:
    """How a job ended, as far as the backend knows. `text` is shown to the user after "its job NAME …"."""

    text: str
    cause: Cause


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a job could not be submitted.

    `may_pass` is True for a temporary condition (controller unreachable, queue limit, full disk): the same job is then
    submitted again later.
    """

    text: str
    may_pass: bool


class Launcher(Protocol):
    """A backend. Every call takes many jobs, because a scheduler's queue is queried for all of them at once.

    Every call that waits has its own deadline.
    """

    @property
    def backend(self) -> str:
        """The backend's name, as in `run --backend NAME`."""

    @property
    def entry(self) -> str:
        """The function that executes one stage, as MODULE:FUNCTION."""

    @property
    def calls_block(self) -> bool:
        """True if calls may be slow, such as a scheduler's commands; the driver then makes them in a thread."""

    def placement_for(self, stages: Sequence[Stage]) -> Placement:
        """Return the compute placement of a job with these stages."""

    def pack_key(self, stage: Stage) -> Hashable:
        """Return a key; only stages with equal keys may share a job."""

    def submit(self, jobs: Sequence[Job]) -> Mapping[str, Refusal]:
        """Start jobs whose job.json is written; return the refusals by job name.

        A job refused with `may_pass` is submitted again under the same name. If the answer to an earlier submission was
        lost, the launcher first checks whether that job exists, so that no job starts twice. Raises nothing: every error
        becomes a refusal.
        """

    def poll(self, jobs: Sequence[Job]) -> Mapping[str, Exit]:
        """Return how the ended ones among these jobs ended, by name. Empty if the backend cannot be reached."""

    def live(self, jobs: Sequence[Job]) -> set[str]:
        """Return the names of those of these jobs that run or wait in the queue, or may do so; also jobs of other drivers.

        All of them if the backend cannot be reached: no job is declared dead without evidence.
        """

    def cancel(self, jobs: Sequence[Job]) -> None:
        """End these jobs and wait until they are gone, at most until a deadline."""
