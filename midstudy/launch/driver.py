"""The driver: submit the stages of a study as jobs, follow the jobs, and report the outcome of every stage.

It does not depend on Prefect: any caller can await `finished` for a stage. The store is the source of truth: the driver
polls it for records and failures, so a stage is finished as soon as its record exists, while its job continues with the next
stage. If a driver dies, its jobs keep running; the next driver finds them in the store and follows them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from midstudy.files.errors import StoreError, UnwritableError
from midstudy.launch import clock
from midstudy.launch.backends import by_backend, launcher_of
from midstudy.launch.claim import claim, holder_of, is_taken_over, lock
from midstudy.launch.heartbeat import BEAT_EVERY_S, STALE_AFTER_S, Heartbeats, forget_ended
from midstudy.launch.job import write_failure
from midstudy.launch.job_file import (
    Job,
    JobStage,
    is_cancelled,
    job_end,
    job_name,
    read_job,
    unended_jobs,
    write_end,
    write_job,
)
from midstudy.launch.launcher import Cause, Exit, Launcher, Refusal
from midstudy.launch.log import log_tail
from midstudy.launch.process import this_process
from midstudy.launch.restarts import starts
from midstudy.launch.retries import forget_interruptions, note_interruption
from midstudy.launch.schedule import Schedule
from midstudy.recipe.stage import Stage
from midstudy.store.store import Store

MAX_RUNS_AGAIN: Mapping[Cause, int] = {
    "preempted": 20,
    "timed out": 5,
    "node failed": 3,
    "lost": 3,
    "killed": 2,
    "out of memory": 1,
}
"""How often a stage is retried after each cause. Training resumes from its last checkpoint, so preemption costs little; a
stage that runs out of memory or gets killed usually does so again. A stage whose code failed, or whose job was cancelled
through the scheduler, is not retried."""

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 120.0
"""Wait before a refused job is submitted again: doubles from the first value up to the second."""

PATIENCE_S = 600.0
"""How long to wait for a store that cannot be written (such as a full disk) before the unfinished stages fail."""

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a stage.

    `reused` means that its record existed when the driver started. `cause` says why the stage failed, or which failed stage
    (`ancestor`) a skipped one depends on.
    """

    status: Literal["published", "reused", "failed", "skipped"]
    cause: str = ""
    ancestor: str | None = None


class StudyCancelledError(Exception):
    """Raised when `midstudy cancel` asked this driver to end."""


@dataclass
class _Followed:
    """A job that this driver follows, with its unsettled stages in the job's order (`pending`).

    `refusals` counts consecutive refused submissions; the next attempt is at `again_at` (monotonic seconds). `exit` keeps
    the backend's first report of how the job ended: a later report may differ, and settling the job may have to wait for
    disk space. `failed_before` lists stages that had already failed in this job when the driver started; they are retried
    once the job has ended.
    """

    job: Job
    pending: list[str]
    refusals: int = 0
    again_at: float = 0.0
    exit: Exit | None = None
    failed_before: list[str] = field(default_factory=list)


class Driver:
    """Run the stages of a study, at most `max_jobs` jobs at a time.

    Args:
        store: holds the stages' records and the jobs' files.
        stages: the study's stages by id.
        launcher: the backend that starts the jobs.
        study: the study's name, used in the command that retries a failed stage.
        max_jobs: maximum number of jobs at a time.
        on_change: called with a stage's id and "submitted" or its outcome's status, whenever that changes.
        on_notice: called with a line for the user: a stage is retried, a job could not be submitted.
        job_budget_s: expected seconds after which no more stages are packed into a job.
        poll_s: seconds between two polls of the store.
    """

    def __init__(
        self,
        store: Store,
        stages: Mapping[str, Stage],
        launcher: Launcher,
        *,
        study: str,
        max_jobs: int,
        on_change: Callable[[str, str], None] = lambda stage_id, status: None,
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
        self._failed_before: dict[str, dict[str, Any]] = {}
        self._me = this_process()
        self._heartbeats = Heartbeats(store, self._me)
        self._beating: asyncio.Task[None] | None = None
        self._beat_at = clock.now()
        self._cannot_write_since: float | None = None
        self._no_room: UnwritableError | None = None
        self._detached = False
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="launcher")
        self._call: concurrent.futures.Future[Any] | None = None
        self._loop: asyncio.Task[None] | None = None
        self._error: BaseException | None = None

    # -- public interface ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Settle finished stages, adopt jobs left running by an earlier driver, and start the driver's loop.

        Raises:
            StoreError: a record on disk is damaged or belongs to another recipe, or a parent outside the study is missing.
        """
        self._heartbeats.begin(self._study)
        published = self._store.published(self._stages)
        for stage_id in published:
            self._store.verify(self._stages[stage_id])
        unfinished = (stage for stage_id, stage in self._stages.items() if stage_id not in published)
        outside = {parent for stage in unfinished for parent in stage.parents} - self._stages.keys()
        if absent := outside - self._store.published(outside):
            raise StoreError(f"stage {min(absent)}: the study depends on it, but it is not finished. Plan the study again.")
        self._schedule = Schedule(
            self._stages,
            published=published | outside,
            job_budget_s=self._job_budget_s,
            pack_key=self._launcher.pack_key,
        )
        for stage_id in self._stages:
            if stage_id in published:
                self._settle(stage_id, Outcome(status="reused"))
        self._failed_before = self._failures()
        unended = list(unended_jobs(self._store))
        dead = await self._dead(unended)
        for job in unended:
            if job.name in dead and not starts(self._store, job.name):
                write_end(self._store, job.name, "gone")
            else:  # if it has ended in the meantime, its backend says why
                self._follow(job)
        forget_ended(self._store, {job.driver.key for job in unended})
        self._beating = asyncio.create_task(self._beat(), name="heartbeat")
        self._loop = asyncio.create_task(self._run(), name="driver")

    def _failures(self) -> dict[str, dict[str, Any]]:
        failures = {}
        for stage_id in self._schedule.unsettled:
            with contextlib.suppress(StoreError):  # a damaged failure file fails the stage when it is claimed
                if (failure := self._store.failure(stage_id)) is not None:
                    failures[stage_id] = failure
        return failures

    async def finished(self, stage_id: str) -> Outcome:
        """Wait until a stage is settled and return its outcome.

        Raises:
            StudyCancelledError: `midstudy cancel` asked this driver to end.
            StoreError: the driver cannot continue. The error that stopped it is raised for every unsettled stage.
        """
        if stage_id in self._outcomes:
            return self._outcomes[stage_id]
        if self._error is not None:
            raise self._error
        if stage_id not in self._waiting:
            self._waiting[stage_id] = asyncio.get_running_loop().create_future()
        # Shielded: cancelling one waiter must not cancel the future for the others.
        return await asyncio.shield(self._waiting[stage_id])

    async def stop(self) -> None:
        """End the driver and cancel the jobs that it submitted or adopted, which takes a few seconds.

        The jobs' progress is kept, and a later run resumes from it. Once all stages are settled, no jobs are left to cancel.
        Does nothing after `detach`.
        """
        if self._detached:
            return
        await self._leave()
        self._recheck_owners()
        # Called directly, not awaited in a thread: while an event loop is being torn down, an await may never return.
        mine = [followed.job for followed in self._followed.values() if self._is_mine(followed.job)]
        for backend, jobs in {self._launcher.backend: [], **by_backend(mine)}.items():
            self._launcher_of(backend).cancel(jobs)  # even without jobs: finished ones may still be exiting
        for job in mine:
            with contextlib.suppress(StoreError):  # the driver that finds it dead writes its end
                if job_end(self._store, job.name) is None:
                    write_end(self._store, job.name, "stopped")
        self._heartbeats.end(jobs_go_on=False)

    async def detach(self) -> int:
        """End the driver but keep its jobs running; return their number. The next driver follows them."""
        await self._leave()
        self._detached = True
        self._heartbeats.end(jobs_go_on=True)
        return sum(self._is_mine(followed.job) for followed in self._followed.values())

    async def _leave(self) -> None:
        for task in (self._loop, self._beating):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        for future in self._waiting.values():
            future.cancel()
        if self._call is not None:  # let a submission in progress finish before jobs are cancelled or left
            concurrent.futures.wait([self._call])
        self._thread.shutdown()

    async def __aenter__(self) -> Driver:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    @property
    def in_jobs(self) -> list[str]:
        """Ids of the stages that are in a job now, running ones first."""
        heads = [followed.pending[0] for followed in self._followed.values() if followed.pending]
        return heads + [stage_id for followed in self._followed.values() for stage_id in followed.pending[1:]]

    # -- the loop -----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while self._schedule.unsettled:
                wait_s = self._poll_s
                try:
                    await self._poll()
                    if self._no_room is None:
                        await self._submit()
                        self._cannot_write_since = None
                    else:
                        self._fail_idle(str(self._no_room))
                except UnwritableError as error:
                    wait_s = self._wait_for_room(error)
                await asyncio.sleep(wait_s if self._schedule.unsettled else 0)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._error = error
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(error)

    async def _beat(self) -> None:
        while True:
            self._heartbeats.beat()
            if abs(clock.now() - self._beat_at) > STALE_AFTER_S / 2:  # this host was suspended or stalled
                self._recheck_owners()
            self._beat_at = clock.now()
            await asyncio.sleep(BEAT_EVERY_S)

    def _recheck_owners(self) -> None:
        """Read the followed jobs' drivers again: while this one was unresponsive, another may have taken its jobs over."""
        for followed in self._followed.values():
            with contextlib.suppress(StoreError):
                driver = read_job(self._store, followed.job.name).driver
                followed.job = dataclasses.replace(followed.job, driver=driver)

    def _wait_for_room(self, error: UnwritableError) -> float:
        """Return the seconds to wait for a store that cannot be written; after `PATIENCE_S`, start no more stages."""
        if self._cannot_write_since is None:
            self._cannot_write_since = clock.monotonic()
            self._notice(f"waiting: {error}")
        waited_s = clock.monotonic() - self._cannot_write_since
        if not error.may_pass or waited_s > PATIENCE_S:
            self._no_room = error
        return min(max(self._poll_s, waited_s), LONGEST_WAIT_S)

    def _fail_idle(self, cause: str) -> None:
        """Fail the stages that are in no job. Those in a job may still finish."""
        in_jobs = set(self.in_jobs)
        for stage_id in [idle for idle in self._schedule.unsettled if idle not in in_jobs]:
            if stage_id in self._schedule.unsettled:
                self._fail(stage_id, cause)

    def _write_end(self, job: Job) -> None:
        """Write the end of a job that did not write it itself."""
        try:
            write_end(self._store, job.name, "gone")
        except UnwritableError:
            if self._no_room is None:
                raise

    async def _ask(self, launcher: Launcher, call: Callable[[Sequence[Job]], _Result], jobs: Sequence[Job]) -> _Result:
        """Call a launcher, in a thread if the call may block, so that the event loop keeps running."""
        if not launcher.calls_block:
            return call(jobs)
        future = self._thread.submit(call, jobs)
        self._call = future
        result = await asyncio.wrap_future(future)
        self._call = None
        return result

    def _launcher_of(self, backend: str) -> Launcher:
        """Return the launcher of a backend. Jobs of an earlier driver may use another backend than this one's."""
        if backend not in self._launchers:
            self._launchers[backend] = launcher_of(backend, self._store)
        return self._launchers[backend]

    async def _dead(self, jobs: Iterable[Job]) -> set[str]:
        """Return the names of those of these jobs that are not live and that no live driver is about to submit."""
        orphans = [job for job in jobs if not self._heartbeats.is_fresh(job.driver)]
        live: set[str] = set()
        for backend, group in by_backend(orphans).items():
            launcher = self._launcher_of(backend)
            live |= await self._ask(launcher, launcher.live, group)
        return {job.name for job in orphans} - live

    async def _poll(self) -> None:
        """Poll the store and the backends once; settle the stages and jobs that have ended since the last poll."""
        if self._heartbeats.is_cancel_requested(self._study):
            raise StudyCancelledError(
                f"{self._study}: cancelled by `midstudy cancel`; finished stages are kept. Run it again to resume."
            )
        for followed in list(self._followed.values()):
            self._adopt(followed)
        # Poll jobs before records: once a job is seen to have ended, all of its records exist.
        submitted = [followed for followed in self._followed.values() if not followed.refusals and followed.exit is None]
        mine = [followed.job for followed in submitted if self._is_mine(followed.job)]
        for backend, jobs in by_backend(mine).items():
            launcher = self._launcher_of(backend)
            for name, ended in (await self._ask(launcher, launcher.poll, jobs)).items():
                self._followed[name].exit = ended
        theirs = [followed.job for followed in self._followed.values() if not self._is_mine(followed.job)]
        over = {job.name for job in theirs if self._is_over(job)}
        for name, followed in list(self._followed.items()):
            self._settle_stages(followed)
            if followed.exit is not None:
                self._settle_job(followed, followed.exit)
            elif name not in over:  # another driver's job: that driver records why it ended, any driver may run the rest
                continue
            self._unfollow(followed)

    def _is_over(self, job: Job) -> bool:
        """Return whether another driver's job has ended, or was withdrawn before it was submitted."""
        return job_end(self._store, job.name) is not None or not self._store.paths.job_spec(job.name).exists()

    def _unfollow(self, followed: _Followed) -> None:
        """Stop following a job and return its unsettled stages to the schedule."""
        del self._followed[followed.job.name]
        left = [*followed.failed_before, *followed.pending]
        self._schedule.give_back(stage_id for stage_id in left if stage_id not in self._outcomes)

    def _settle_stages(self, followed: _Followed) -> None:
        """Settle a job's stages that have ended. It runs them in order, so only its first unsettled stage is checked."""
        while followed.pending:
            head = followed.pending[0]
            if head in self._outcomes:
                pass
            elif self._store.has(head):
                self._schedule.publish(head)
                self._settle(head, Outcome(status="published"))
            elif (failure := self._failure_in(followed.job, head)) is not None:
                if failure == self._failed_before.get(head):
                    followed.failed_before.append(head)
                else:
                    self._fail(head, failure["cause"])
            else:
                return
            del followed.pending[0]

    def _failure_in(self, job: Job, stage_id: str) -> dict[str, Any] | None:
        """Return how a stage failed in a job; None if it did not."""
        try:
            failure = self._store.failure(stage_id)
        except StoreError as error:
            return {"cause": str(error)}
        return failure if failure is not None and failure.get("job") == job.name else None

    def _settle_job(self, followed: _Followed, ended: Exit) -> None:
        """Settle a job that has ended: fail or retry the stage it ended in. Written to disk before the stage is settled."""
        end = job_end(self._store, followed.job.name)
        cause = None
        in_a_stage = followed.pending and end != "cut short" and not followed.failed_before
        if in_a_stage and not is_cancelled(self._store, followed.job.name):
            # A job that was cut short did not start its remaining stages; a cancelled job was ended by a driver.
            if ended.cause == "exited" and end is not None:
                ended = dataclasses.replace(ended, cause="preempted" if end == "stopped" else "lost")
            cause = self._cause_unless_retried(followed, ended)
            if cause is not None and (log_end := log_tail(self._store, followed.pending[0], followed.job.name)):
                cause = f"{cause}; its log ends: {log_end}"
        if cause is not None:
            self._write_failure(followed.job, followed.pending[0], cause)
        if end is None:
            self._write_end(followed.job)
        if cause is not None:
            self._fail(followed.pending[0], cause)

    def _cause_unless_retried(self, followed: _Followed, ended: Exit) -> str | None:
        """Return why the stage that a job ended in has failed; None if the stage is retried."""
        what, allowed = f"its job {followed.job.name} {ended.text}", MAX_RUNS_AGAIN.get(ended.cause, 0)
        if allowed == 0:
            return what
        if self._no_room is not None:
            return f"{what}; {self._no_room}"
        try:
            times = note_interruption(self._store, followed.pending[0], followed.job.name, ended)
        except UnwritableError:
            raise
        except StoreError as error:  # the stage's interruptions file is damaged
            return f"{what}; {error}"
        if times > allowed:
            return f"{what}; {ended.cause} {times} times, not retried"
        label = self._stages[followed.pending[0]].label
        self._notice(f"{label}: {what}; retried ({ended.cause}: {times} of at most {allowed} times)")
        return None

    def _write_failure(self, job: Job, stage_id: str, cause: str) -> None:
        """Record the failure of a stage whose job could not record it itself."""
        with contextlib.suppress(UnwritableError):  # this run still reports it, and the next run retries the stage
            write_failure(self._store, job, stage_id, label=self._stages[stage_id].label, cause=cause)

    # -- submission ---------------------------------------------------------------------------------------------------

    async def _submit(self) -> None:
        """Submit new jobs for the free slots, and refused jobs whose wait is over."""
        due = [job for job in self._followed.values() if job.refusals and clock.monotonic() >= job.again_at]
        num_used = sum(self._is_mine(followed.job) for followed in self._followed.values())
        new: list[_Followed] = []
        write_error: UnwritableError | None = None
        for stage_ids in self._schedule.next_jobs(num_free=self._max_jobs - num_used, num_slots=self._max_jobs):
            planned = self._new_job(stage_ids)
            try:
                job = await self._claimed(planned) if write_error is None else None
            except UnwritableError as error:
                write_error, job = error, None
            if job is not None:
                new.append(_Followed(job, list(job.stage_ids)))
                self._followed[job.name] = new[-1]
                for stage_id in job.stage_ids:
                    self._on_change(stage_id, "submitted")
            elif write_error is not None:  # withdraw a job whose files could not be written
                shutil.rmtree(self._store.paths.job(planned.name), ignore_errors=True)
                self._schedule.give_back(stage_id for stage_id in stage_ids if stage_id not in self._outcomes)
        if new or due:
            await self._hand_over([*due, *new])
        if write_error is not None:
            raise write_error

    def _new_job(self, stage_ids: Sequence[str]) -> Job:
        stages = [self._stages[stage_id] for stage_id in stage_ids]
        return Job(
            name=job_name(stage_ids[0]),
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
        """Submit jobs. After a temporary refusal a job is submitted again later; after any other, its stages fail."""
        if taken_over := [followed for followed in jobs if not self._still_owns(followed.job)]:
            for followed in taken_over:
                self._drop(followed)
        jobs = [followed for followed in jobs if followed not in taken_over]
        refused = await self._ask(self._launcher, self._launcher.submit, [followed.job for followed in jobs])
        for followed in jobs:
            refusal = refused.get(followed.job.name)
            if refusal is None:
                followed.refusals = 0
            elif refusal.may_pass:
                self._postpone(followed, refusal)
            else:
                cause = f"its job {followed.job.name} was refused: {refusal.text}"
                for stage_id in followed.pending:
                    if stage_id not in self._outcomes:
                        self._write_failure(followed.job, stage_id, cause)
                        self._fail(stage_id, cause)
                self._drop(followed)

    def _still_owns(self, job: Job) -> bool:
        """Return whether this driver still owns a job and the job its stages; an unresponsive driver's may be taken over."""
        try:
            return read_job(self._store, job.name).driver == self._me and not any(
                is_taken_over(self._store, stage_id, job.name) for stage_id in job.stage_ids
            )
        except StoreError:
            return False

    def _drop(self, followed: _Followed) -> None:
        """Drop a job that will never be submitted; its stages go to other jobs."""
        with contextlib.suppress(UnwritableError):  # a later driver that finds it dead writes its end
            if job_end(self._store, followed.job.name) is None:
                write_end(self._store, followed.job.name, "gone")
        self._unfollow(followed)

    def _postpone(self, followed: _Followed, refusal: Refusal) -> None:
        wait_s = min(FIRST_WAIT_S * 2**followed.refusals, LONGEST_WAIT_S)
        if not followed.refusals:
            self._notice(f"{self._stages[followed.pending[0]].label}: not submitted yet, will retry: {refusal.text}")
        followed.refusals += 1
        followed.again_at = clock.monotonic() + wait_s

    async def _claimed(self, job: Job) -> Job | None:
        """Claim the job's stages; drop those another driver holds and follow its jobs instead. None if no stage is left."""
        write_job(self._store, job)  # before the claims, which are valid only while the job exists
        dead = await self._dead(_distinct(self._holder_of(stage_id) for stage_id in job.stage_ids))
        holders: list[Job] = []
        failed: dict[str, str] = {}
        for stage_id in job.stage_ids:
            try:
                holder = claim(self._store, stage_id, job, dead=dead)
                cause = self._failed_meanwhile(stage_id) if holder is None else None
            except UnwritableError:
                raise
            except StoreError as error:  # a damaged file
                holder, cause = None, str(error)
            if holder is not None:
                holders.append(holder)
            elif cause is not None:
                failed[stage_id] = cause
        if holders or failed:
            self._schedule.give_back(job.stage_ids)
            for holder in holders:
                self._follow(holder)
            for stage_id, cause in failed.items():
                if stage_id not in self._outcomes:
                    self._fail(stage_id, cause)
            left = self._schedule.feasible(job.stage_ids)
            if not left:
                shutil.rmtree(self._store.paths.job(job.name), ignore_errors=True)
                return None
            self._schedule.take(left)
            job = dataclasses.replace(job, stages=tuple(stage for stage in job.stages if stage.id in left))
            write_job(self._store, job)
        return job

    def _failed_meanwhile(self, stage_id: str) -> str | None:
        """Return why a stage has failed in another driver's job since this driver started; None if it has not.

        A failure from before this driver started is cleared, and the stage gets its full number of retries again.
        """
        failure = self._store.failure(stage_id)
        if failure is None:
            return None
        if failure != self._failed_before.pop(stage_id, None):
            return failure["cause"]
        forget_interruptions(self._store, stage_id)
        self._store.clear_failure(stage_id)
        return None

    def _holder_of(self, stage_id: str) -> Job | None:
        with contextlib.suppress(StoreError):  # damaged: the stage fails when it is claimed
            return holder_of(self._store, stage_id)
        return None

    def _follow(self, job: Job) -> None:
        """Follow a job that another driver submitted, for its unsettled stages that belong to this study."""
        if job.name in self._followed:
            self._schedule.take(self._followed[job.name].pending)
            return
        # Only the stages it has claimed: two drivers that start the same stages would wait for each other's jobs.
        pending = [
            stage_id
            for stage_id in job.stage_ids
            if stage_id in self._schedule.unsettled and not is_taken_over(self._store, stage_id, job.name)
        ]
        if pending:
            self._schedule.take(pending)
            self._followed[job.name] = _Followed(job, pending)
            self._adopt(self._followed[job.name])
            for stage_id in pending:
                self._on_change(stage_id, "submitted")

    def _adopt(self, followed: _Followed) -> None:
        """Take over a followed job whose driver is gone: it then uses a slot, and is cancelled with this driver."""
        previous = followed.job.driver
        if self._is_mine(followed.job) or self._heartbeats.is_fresh(previous):
            return
        with lock(self._store):
            try:
                job = read_job(self._store, followed.job.name)
            except StoreError:  # it was withdrawn before it was submitted
                self._unfollow(followed)
                return
            if job.driver == previous:
                job = dataclasses.replace(job, driver=self._me, former_drivers=(*job.former_drivers, previous))
                write_job(self._store, job)
                why = "has detached" if self._heartbeats.has_left(previous) else "is unresponsive"
                self._notice(f"job {job.name}: taken over; its driver, process {previous.pid} on {previous.host}, {why}")
            followed.job = job

    def _is_mine(self, job: Job) -> bool:
        return job.driver == self._me

    # -- outcomes -----------------------------------------------------------------------------------------------------

    def _fail(self, stage_id: str, cause: str) -> None:
        skipped = self._schedule.fail(stage_id)
        self._settle(stage_id, Outcome(status="failed", cause=cause))
        for descendant in skipped:
            reason = f"depends on {self._stages[stage_id].label!r}, which failed: {cause}"
            self._settle(descendant, Outcome(status="skipped", cause=reason, ancestor=stage_id))

    def _settle(self, stage_id: str, outcome: Outcome) -> None:
        self._outcomes[stage_id] = outcome
        if (future := self._waiting.pop(stage_id, None)) is not None and not future.done():
            future.set_result(outcome)
        self._on_change(stage_id, outcome.status)


def _distinct(jobs: Iterable[Job | None]) -> list[Job]:
    return list({job.name: job for job in jobs if job is not None}.values())
