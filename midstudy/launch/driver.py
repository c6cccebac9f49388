"""The driver: submits the stages of a study as jobs, follows them, and says of each stage how it came out.

It knows nothing of Prefect: whoever wants to can await `finished` for every stage. Truth is on disk: the driver polls for
records and failures, so a stage counts as soon as its record is there, while its job goes on with the next. A driver that
dies leaves its jobs running; the next one finds them in the store and follows them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from midstudy.launch import clock
from midstudy.launch.backends import by_backend, launcher_of
from midstudy.launch.claim import claim, holder_of
from midstudy.launch.interruptions import forget_interruptions, note_interruption
from midstudy.launch.job import write_failure
from midstudy.launch.job_file import (
    Job,
    JobStage,
    is_cancelled,
    job_end,
    job_name,
    unended_jobs,
    write_end,
    write_job,
)
from midstudy.launch.launcher import Cause, Exit, Launcher, Refusal
from midstudy.launch.process import this_process
from midstudy.launch.schedule import Schedule
from midstudy.plan.stage import Stage
from midstudy.store.errors import StoreError
from midstudy.store.store import Store

MAX_RUNS_AGAIN: Mapping[Cause, int] = {
    "preempted": 20,
    "timed out": 5,
    "node failed": 3,
    "lost": 3,
    "killed": 2,
    "out of memory": 1,
}
"""How often a stage is run again after each cause. Training goes on from its last checkpoint, so room that is taken away
costs little; what uses up memory, or gets its job killed, mostly does so again. What its own code raised is not run again,
nor what somebody cancelled."""

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 120.0
"""Before a job that was refused is submitted again: doubled each time, up to the second."""

_Result = TypeVar("_Result")


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
    """A job and those of its stages that are not settled, in the job's order.

    `refusals` counts how often in a row it could not be submitted; it is tried again `again_at`.
    """

    job: Job
    pending: list[str]
    refusals: int = 0
    again_at: float = 0.0


class Driver:
    """Runs the stages of a study, at most `max_jobs` jobs at a time.

    Args:
        study: the study's name, for the command that runs a failed stage again.
        on_change: called with a stage's id and "submitted" or its outcome's status, whenever that changes.
        on_notice: called with a line for people: a stage is run again, a job could not be submitted.
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
        on_notice: Callable[[str], None] = lambda line: None,
        job_budget_s: float = 60.0,
        poll_s: float = 0.2,
    ) -> None:
        self._store, self._stages, self._launcher = store, stages, launcher
        self._launchers = {launcher.backend: launcher}
        self._study, self._max_jobs, self._on_change, self._notice = study, max_jobs, on_change, on_notice
        self._job_budget_s, self._poll_s = job_budget_s, poll_s
        self._outcomes: dict[str, Outcome] = {}
        self._waiting: dict[str, asyncio.Future[Outcome]] = {}
        self._followed: dict[str, _Followed] = {}
        self._submitted: set[str] = set()
        self._me = this_process()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="launcher")
        self._call: concurrent.futures.Future[Any] | None = None
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
        self._schedule = Schedule(
            self._stages,
            published=published | outside,
            job_budget_s=self._job_budget_s,
            pack_key=self._launcher.pack_key,
        )
        for identity in self._stages:
            if identity in published:
                self._settle(identity, Outcome(status="reused"))
        unended = list(unended_jobs(self._store))
        dead = await self._dead(unended)
        for job in unended:
            if job.name in dead:
                write_end(self._store, job.name, "gone")
            else:
                self._follow(job)
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
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop
        for future in self._waiting.values():
            future.cancel()
        # Not awaited, nor made in a thread: when an event loop is being torn down, an await may not come back.
        if self._call is not None:  # what is being submitted is there before it is cancelled
            concurrent.futures.wait([self._call])
        self._thread.shutdown()
        if mine := [one.job for one in self._followed.values() if self._is_mine(one.job)]:
            for backend, some in by_backend(mine).items():
                self._launcher_of(backend).cancel(some)
            for job in mine:
                if job_end(self._store, job.name) is None:
                    write_end(self._store, job.name, "stopped")

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
                await self._look()
                await self._submit()
                await asyncio.sleep(self._poll_s if self._schedule.unsettled else 0)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._error = error
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(error)

    async def _ask(self, launcher: Launcher, call: Callable[[Sequence[Job]], _Result], jobs: Sequence[Job]) -> _Result:
        """Call a launcher; in a thread where that may take long, so that those who await stages are not held up."""
        if not launcher.calls_block:
            return call(jobs)
        future = self._thread.submit(call, jobs)
        self._call = future
        result = await asyncio.wrap_future(future)
        self._call = None
        return result

    def _launcher_of(self, backend: str) -> Launcher:
        """The launcher that a job was given to; an earlier driver's may have been of another backend."""
        if backend not in self._launchers:
            self._launchers[backend] = launcher_of(backend, self._store)
        return self._launchers[backend]

    async def _dead(self, jobs: Iterable[Job]) -> set[str]:
        """Names of those of these jobs that are not there and that no driver is about to submit."""
        left = [job for job in jobs if not job.driver.is_alive()]
        live: set[str] = set()
        for backend, some in by_backend(left).items():
            launcher = self._launcher_of(backend)
            live |= await self._ask(launcher, launcher.live, some)
        return {job.name for job in left} - live

    async def _look(self) -> None:
        """Settle what has come out since the last look."""
        for one in self._followed.values():
            self._adopt(one)
        # Jobs first, records second: of a job that has ended, every record is there.
        mine = [one.job for one in self._followed.values() if self._is_mine(one.job) and not one.refusals]
        exits: dict[str, Exit] = {}
        for backend, some in by_backend(mine).items():
            launcher = self._launcher_of(backend)
            exits |= await self._ask(launcher, launcher.poll, some)
        ends = {name: job_end(self._store, name) for name, one in self._followed.items() if not self._is_mine(one.job)}
        for name, one in list(self._followed.items()):
            self._settle_stages(one)
            if name in exits:
                del self._followed[name]
                self._settle_job(one, exits[name])
            elif ends.get(name) is not None:  # its own driver says why; what is left is anybody's
                del self._followed[name]
                self._give_back(one)

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
        if one.pending and end != "cut short":  # then the stage that failed is settled, and the rest was not begun
            cause = ended.cause
            if cause == "exited" and end is not None:
                cause = "preempted" if end == "stopped" else "lost"
            self._judge(one, Exit(text=ended.text, cause=cause))
        if end is None:
            write_end(self._store, one.job.name, "gone")
        self._give_back(one)

    def _judge(self, one: _Followed, ended: Exit) -> None:
        """The stage that a job was at when it ended is run again, if that may help and was not done too often."""
        head, label = one.pending[0], self._stages[one.pending[0]].label
        if is_cancelled(self._store, one.job.name):
            self._fail_in(one, head, "cancelled")
            return
        what, allowed = f"its job {one.job.name} {ended.text}", MAX_RUNS_AGAIN.get(ended.cause, 0)
        if allowed == 0:
            self._fail_in(one, head, what)
            return
        times = note_interruption(self._store, head, one.job.name, ended)
        if times > allowed:
            self._fail_in(one, head, f"{what}; {ended.cause} {times} times, and is not run again")
        else:
            self._notice(f"{label}: {what}; run again ({ended.cause}: {times} of at most {allowed} times)")

    def _fail_in(self, one: _Followed, identity: str, cause: str) -> None:
        """A stage failed and its job could not say so."""
        write_failure(self._store, one.job, identity, label=self._stages[identity].label, cause=cause)
        self._fail(identity, cause)

    def _give_back(self, one: _Followed) -> None:
        self._schedule.give_back(stage for stage in one.pending if stage not in self._outcomes)

    # -- submission ---------------------------------------------------------------------------------------------------

    async def _submit(self) -> None:
        again = [one for one in self._followed.values() if one.refusals and clock.monotonic() >= one.again_at]
        slots = sum(self._is_mine(one.job) for one in self._followed.values())
        jobs = self._schedule.next_jobs(num_free=self._max_jobs - slots, num_slots=self._max_jobs)
        asked = [await self._claimed(self._new_job(identities)) for identities in jobs]
        new = [_Followed(job, list(job.stage_ids)) for job in asked if job is not None]
        for one in new:
            self._followed[one.job.name] = one
            for identity in one.pending:
                self._on_change(identity, "submitted")
        if new or again:
            await self._hand_over([*again, *new])

    def _new_job(self, identities: Sequence[str]) -> Job:
        stages = [self._stages[identity] for identity in identities]
        return Job(
            name=job_name(identities[0]),
            study=self._study,
            stages=tuple(
                JobStage(id=stage.id, start_from=stage.start_from, keeps_optimizer=stage.keeps_optimizer) for stage in stages
            ),
            backend=self._launcher.backend,
            placement=self._launcher.placement_for(stages),
            entry=self._launcher.entry,
            driver=self._me,
        )

    async def _hand_over(self, jobs: Sequence[_Followed]) -> None:
        """Submit jobs. What is refused and may pass is tried again later; else its stages have failed."""
        refused = await self._ask(self._launcher, self._launcher.submit, [one.job for one in jobs])
        for one in jobs:
            refusal = refused.get(one.job.name)
            if refusal is None:
                one.refusals = 0
            elif refusal.may_pass:
                self._put_off(one, refusal)
            else:
                del self._followed[one.job.name]
                for identity in one.pending:
                    if identity not in self._outcomes:
                        self._fail_in(one, identity, f"its job {one.job.name} was refused: {refusal.text}")
                write_end(self._store, one.job.name, "gone")

    def _put_off(self, one: _Followed, refusal: Refusal) -> None:
        wait_s = min(FIRST_WAIT_S * 2**one.refusals, LONGEST_WAIT_S)
        if not one.refusals:
            self._notice(f"{self._stages[one.pending[0]].label}: not submitted yet, tried again: {refusal.text}")
        one.refusals += 1
        one.again_at = clock.monotonic() + wait_s

    async def _claimed(self, job: Job) -> Job | None:
        """The job with those of its stages that no other driver's job has; none if none is left. The others are followed."""
        write_job(self._store, job)  # before the claims, which hold only while there is a job
        dead = await self._dead(_distinct(holder_of(self._store, identity) for identity in job.stage_ids))
        holders = {identity: claim(self._store, identity, job, dead=dead) for identity in job.stage_ids}
        if any(holders.values()):
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
        self._begin_anew(job.stage_ids)
        return job

    def _begin_anew(self, identities: Collection[str]) -> None:
        """A stage that failed in an earlier run, and that this one was started to try again, has all its runs again."""
        for identity in identities:
            if identity not in self._submitted and self._store.failure(identity) is not None:
                forget_interruptions(self._store, identity)
                self._store.clear_failure(identity)
        self._submitted.update(identities)

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


def _distinct(jobs: Iterable[Job | None]) -> list[Job]:
    return list({job.name: job for job in jobs if job is not None}.values())
