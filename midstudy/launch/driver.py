"""The driver: submits the stages of a study as jobs, follows them, and says of each stage how it came out.

It knows nothing of Prefect: whoever wants to can await `finished` for every stage. Truth is on disk: the driver polls for
records and failures, so a stage counts as soon as its record is there, while its job goes on with the next. A driver that
dies leaves its jobs running; the next one finds them in the store and follows them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from midstudy.launch.claim import claim
from midstudy.launch.job import write_failure
from midstudy.launch.job_file import (
    Job,
    JobStage,
    is_cancelled,
    is_live,
    job_end,
    job_name,
    unended_jobs,
    write_end,
    write_job,
)
from midstudy.launch.launcher import Exit, Launcher
from midstudy.launch.process import this_process
from midstudy.launch.schedule import Schedule
from midstudy.plan.stage import Stage
from midstudy.store.errors import StoreError
from midstudy.store.store import Store

MAX_RUNS_AFTER_KILL = 2
"""Once more, when a stage's job was killed. What its own code raised would be raised again, and is not run again."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a stage came out.

    `reused`: its record was there when the driver started. `cause` says why a stage failed, or which failed stage a
    skipped one needs (`ancestor`).
    """

    status: Literal["published", "reused", "failed", "skipped"]
    cause: str = ""
    ancestor: str | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the stage has a record."""
        return self.status in ("published", "reused")


@dataclass
class _Followed:
    """A job and those of its stages that are not settled, in the job's order."""

    job: Job
    pending: list[str] = field(default_factory=list)


class Driver:
    """Runs the stages of a study, at most `max_jobs` jobs at a time.

    Args:
        study: the study's name, for the command that runs a failed stage again.
        on_change: called with a stage's id and "submitted" or its outcome's status, whenever that changes.
        job_budget_s: expected seconds after which nothing more is packed into a job.
        poll_s: seconds between two looks at the store.
    """

    def __init__(
        self,
        store: Store,
        stages: Mapping[str, Stage],
        launcher: Launcher,
        *,
        study: str,
        max_jobs: int,
        on_change: Callable[[str, str], None] = lambda identity, status: None,
        job_budget_s: float = 60.0,
        poll_s: float = 0.2,
    ) -> None:
        self._store, self._stages, self._launcher = store, stages, launcher
        self._study, self._max_jobs, self._on_change = study, max_jobs, on_change
        self._job_budget_s, self._poll_s = job_budget_s, poll_s
        self._outcomes: dict[str, Outcome] = {}
        self._waiting: dict[str, asyncio.Future[Outcome]] = {}
        self._followed: dict[str, _Followed] = {}
        self._kills: dict[str, int] = {}
        self._me = this_process()
        self._loop: asyncio.Task[None] | None = None
        self._error: BaseException | None = None

    # -- what others see ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Settle what is finished, adopt jobs that an earlier driver left running, and begin.

        Raises:
            StoreError: a record on disk is damaged or was made from another recipe; a parent outside the study is missing.
        """
        published = self._store.published(self._stages)
        for identity in published:
            self._store.verify(self._stages[identity])
        outside = {parent for stage in self._stages.values() for parent in stage.parents} - self._stages.keys()
        if absent := outside - self._store.published(outside):
            raise StoreError(f"stage {min(absent)}: needed by the study and not finished. Plan the study again.")
        self._schedule = Schedule(self._stages, published=published | outside, job_budget_s=self._job_budget_s)
        for identity in self._stages:
            if identity in published:
                self._settle(identity, Outcome(status="reused"))
        for job in unended_jobs(self._store):
            if is_live(self._store, job):
                self._follow(job)
            else:
                write_end(self._store, job.name, "gone")
        self._loop = asyncio.create_task(self._run(), name="driver")

    async def finished(self, stage_id: str) -> Outcome:
        """Wait until a stage is settled.

        Raises:
            StoreError: the driver cannot go on; whatever stopped it is raised for every stage that is not settled.
        """
        if stage_id in self._outcomes:
            return self._outcomes[stage_id]
        if self._error is not None:
            raise self._error
        if stage_id not in self._waiting:
            self._waiting[stage_id] = asyncio.get_running_loop().create_future()
        # Shielded: one waiter that is cancelled must not cancel the stage for the others.
        return await asyncio.shield(self._waiting[stage_id])

    async def stop(self) -> None:
        """End the driver; jobs that it submitted or adopted are cancelled and gone within seconds.

        After the last stage there are none. What they had done is kept: a later run goes on from there.
        """
        await self._end_loop()
        # Not awaited in a thread: when an event loop is being torn down, an await may not come back.
        if mine := [one.job for one in self._followed.values() if self._is_mine(one.job)]:
            self._launcher.cancel(mine)
            for job in mine:
                if job_end(self._store, job.name) is None:
                    write_end(self._store, job.name, "stopped")

    async def detach(self) -> None:
        """End the driver and leave its jobs running; the next driver finds them in the store and follows them."""
        await self._end_loop()
        self._followed.clear()

    async def _end_loop(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop
        for future in self._waiting.values():
            future.cancel()

    async def __aenter__(self) -> Driver:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    @property
    def in_jobs(self) -> list[str]:
        """Stages that are in a job now, those being made first."""
        heads = [one.pending[0] for one in self._followed.values() if one.pending]
        return heads + [stage for one in self._followed.values() for stage in one.pending[1:]]

    # -- the loop -----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while self._schedule.unsettled:
                self._look()
                self._submit()
                await asyncio.sleep(self._poll_s if self._schedule.unsettled else 0)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._error = error
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(error)

    def _look(self) -> None:
        """Settle what has come out since the last look."""
        for one in self._followed.values():
            self._adopt(one)
        # Jobs first, records second: of a job that has ended, every record is there.
        exits = self._launcher.poll([one.job for one in self._followed.values()])
        for one in list(self._followed.values()):
            self._settle_stages(one)
            if one.job.name in exits:
                del self._followed[one.job.name]
                self._settle_job(one, exits[one.job.name])

    def _settle_stages(self, one: _Followed) -> None:
        """A job makes its stages in order, so only the first that is not settled is looked at."""
        while one.pending:
            head = one.pending[0]
            if head in self._outcomes:
                pass
            elif self._store.has(head):
                self._schedule.publish(head)
                self._settle(head, Outcome(status="published"))
            elif (failure := self._store.failure(head)) and failure.get("job") == one.job.name:
                self._fail(head, failure["cause"])
            else:
                return
            del one.pending[0]

    def _settle_job(self, one: _Followed, ended: Exit) -> None:
        """A job has ended: what it did not come to goes back; a stage that it died in has failed, or is run again."""
        end = job_end(self._store, one.job.name)
        if end is None:
            write_end(self._store, one.job.name, "gone")
        if not one.pending:
            return
        head = one.pending[0]
        if end == "cut short":  # the stage that failed is settled; those that were not begun are as good as new
            self._schedule.give_back(stage for stage in one.pending if stage not in self._outcomes)
            return
        cancelled = is_cancelled(self._store, one.job.name)
        by_signal = ended.by_signal or end == "stopped"
        if cancelled and not self._is_mine(one.job):
            pass  # another driver was told to stop, this one was not
        elif by_signal and not cancelled and self._kills.get(head, 0) + 1 < MAX_RUNS_AFTER_KILL:
            self._kills[head] = self._kills.get(head, 0) + 1
        else:
            what = "cancelled" if cancelled else f"its job {one.job.name} {ended.text}"
            write_failure(self._store, one.job, head, label=self._stages[head].label, cause=what)
            self._fail(head, what)
        self._schedule.give_back(stage for stage in one.pending if stage not in self._outcomes)

    def _submit(self) -> None:
        slots = sum(self._is_mine(one.job) for one in self._followed.values())
        jobs = self._schedule.next_jobs(num_free=self._max_jobs - slots, num_slots=self._max_jobs)
        for identities in jobs:
            asked = Job(
                name=job_name(identities[0]),
                study=self._study,
                stages=tuple(self._job_stage(identity) for identity in identities),
                backend=self._launcher.backend,
                placement=self._launcher.placement,
                entry=self._launcher.entry,
                driver=self._me,
            )
            write_job(self._store, asked)  # before the claims, which hold only while there is a job
            if job := self._claimed(asked):
                self._followed[job.name] = _Followed(job, list(job.stage_ids))
                for identity in job.stage_ids:
                    self._on_change(identity, "submitted")
                self._launcher.submit(job)

    def _claimed(self, job: Job) -> Job | None:
        """The job with those of its stages that no other driver's job has; none if none is left. The others are followed."""
        holders = {identity: claim(self._store, identity, job) for identity in job.stage_ids}
        if not any(holders.values()):
            return job
        self._schedule.give_back(job.stage_ids)
        for holder in holders.values():
            if holder is not None and holder.name not in self._followed:
                self._follow(holder)
        left = self._schedule.feasible(job.stage_ids)
        if not left:
            shutil.rmtree(self._store.paths.job(job.name))
            return None
        self._schedule.take(left)
        job = dataclasses.replace(job, stages=tuple(stage for stage in job.stages if stage.id in left))
        write_job(self._store, job)
        return job

    def _follow(self, job: Job) -> None:
        """Follow a job that another driver submitted, for the stages it still has to make of this study."""
        pending = [identity for identity in job.stage_ids if identity in self._schedule.unsettled]
        if pending:
            self._schedule.take(pending)
            self._followed[job.name] = _Followed(job, pending)
            self._adopt(self._followed[job.name])
            for identity in pending:
                self._on_change(identity, "submitted")

    def _adopt(self, one: _Followed) -> None:
        """Answer for a followed job whose own driver is gone: it takes a slot, and is cancelled with this driver."""
        if not self._is_mine(one.job) and not one.job.driver.is_alive():
            one.job = dataclasses.replace(one.job, driver=self._me)
            write_job(self._store, one.job)

    def _is_mine(self, job: Job) -> bool:
        return job.driver == self._me

    # -- outcomes -----------------------------------------------------------------------------------------------------

    def _fail(self, identity: str, cause: str) -> None:
        skipped = self._schedule.fail(identity)
        self._settle(identity, Outcome(status="failed", cause=cause))
        for one in skipped:
            needs = f"needs {self._stages[identity].label!r}, which failed: {cause}"
            self._settle(one, Outcome(status="skipped", cause=needs, ancestor=identity))

    def _settle(self, identity: str, outcome: Outcome) -> None:
        self._outcomes[identity] = outcome
        if (future := self._waiting.pop(identity, None)) is not None and not future.done():
            future.set_result(outcome)
        self._on_change(identity, outcome.status)

    def _job_stage(self, identity: str) -> JobStage:
        stage = self._stages[identity]
        return JobStage(id=identity, start_from=stage.start_from, keeps_optimizer=stage.keeps_optimizer)
