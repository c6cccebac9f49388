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
from midstudy.launch.log import last_words
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
"""How often a stage is run again after each cause. Training goes on from its last checkpoint, so room that is taken away
costs little; what uses up memory, or gets its job killed, mostly does so again. What its own code raised is not run again,
nor what somebody cancelled."""

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 120.0
"""Before a job that was refused is submitted again: doubled each time, up to the second."""

PATIENCE_S = 600.0
"""How long a store that cannot be written, as a full disk, is waited for before what is not finished has failed."""

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


class StudyCancelledError(Exception):
    """`midstudy cancel` asked this driver to end."""


@dataclass
class _Followed:
    """A job and those of its stages that are not settled, in the job's order.

    `refusals` counts how often in a row it could not be submitted; it is tried again `again_at`. `exit` is how it ended,
    once its backend has said so: asked again it may say otherwise, and what follows may have to wait for room on the disk.
    `failed_before` had failed in it when this driver began: they are tried again once the job is over.
    """

    job: Job
    pending: list[str]
    refusals: int = 0
    again_at: float = 0.0
    exit: Exit | None = None
    failed_before: list[str] = field(default_factory=list)


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

    # -- what others see ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Settle what is finished, adopt jobs that an earlier driver left running, and begin.

        Raises:
            StoreError: a record on disk is damaged or was made from another recipe; a parent outside the study is missing.
        """
        self._heartbeats.begin(self._study)
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
        self._failed_before = self._failures()
        unended = list(unended_jobs(self._store))
        dead = await self._dead(unended)
        for job in unended:
            if job.name in dead and not starts(self._store, job.name):
                write_end(self._store, job.name, "gone")
            else:  # of one that has ended meanwhile its backend says why
                self._follow(job)
        forget_ended(self._store, {job.driver.key for job in unended})
        self._beating = asyncio.create_task(self._beat(), name="heartbeat")
        self._loop = asyncio.create_task(self._run(), name="driver")

    def _failures(self) -> dict[str, dict[str, Any]]:
        found = {}
        for identity in self._schedule.unsettled:
            with contextlib.suppress(StoreError):  # a damaged one fails the stage when it is its turn
                if (failure := self._store.failure(identity)) is not None:
                    found[identity] = failure
        return found

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

        After the last stage there are none. What they had done is kept: a later run goes on from there. After `detach`
        nothing is done.
        """
        if self._detached:
            return
        await self._leave()
        self._recheck_owners()
        # Not awaited, nor made in a thread: when an event loop is being torn down, an await may not come back.
        mine = [one.job for one in self._followed.values() if self._is_mine(one.job)]
        for backend, some in {self._launcher.backend: [], **by_backend(mine)}.items():
            self._launcher_of(backend).cancel(some)  # also of none: jobs that are done may not have left yet
        for job in mine:
            with contextlib.suppress(StoreError):  # whoever finds it dead writes its end
                if job_end(self._store, job.name) is None:
                    write_end(self._store, job.name, "stopped")
        self._heartbeats.end(jobs_go_on=False)

    async def detach(self) -> int:
        """End the driver and let its jobs go on; returns how many. The next driver follows them."""
        await self._leave()
        self._detached = True
        self._heartbeats.end(jobs_go_on=True)
        return sum(self._is_mine(one.job) for one in self._followed.values())

    async def _leave(self) -> None:
        for task in (self._loop, self._beating):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        for future in self._waiting.values():
            future.cancel()
        if self._call is not None:  # what is being submitted is there before it is cancelled, or left
            concurrent.futures.wait([self._call])
        self._thread.shutdown()

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
                wait_s = self._poll_s
                try:
                    await self._look()
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
            if abs(clock.now() - self._beat_at) > STALE_AFTER_S / 2:  # this host slept, or was held up
                self._recheck_owners()
            self._beat_at = clock.now()
            await asyncio.sleep(BEAT_EVERY_S)

    def _recheck_owners(self) -> None:
        """Another driver may have taken over jobs of this one, while it gave no sign of life."""
        for one in self._followed.values():
            with contextlib.suppress(StoreError):
                one.job = dataclasses.replace(one.job, driver=read_job(self._store, one.job.name).driver)

    def _wait_for_room(self, error: UnwritableError) -> float:
        """Seconds to wait for a store that cannot be written; after `PATIENCE_S` nothing more is begun."""
        if self._cannot_write_since is None:
            self._cannot_write_since = clock.monotonic()
            self._notice(f"waiting: {error}")
        waited_s = clock.monotonic() - self._cannot_write_since
        if not error.may_pass or waited_s > PATIENCE_S:
            self._no_room = error
        return min(max(self._poll_s, waited_s), LONGEST_WAIT_S)

    def _fail_idle(self, cause: str) -> None:
        """What is in no job has failed; what is in one may still be finished."""
        in_jobs = set(self.in_jobs)
        for identity in [one for one in self._schedule.unsettled if one not in in_jobs]:
            if identity in self._schedule.unsettled:
                self._fail(identity, cause)

    def _write_end(self, job: Job) -> None:
        """Write down that a job is over which did not say so itself."""
        try:
            write_end(self._store, job.name, "gone")
        except UnwritableError:
            if self._no_room is None:
                raise

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
        left = [job for job in jobs if not self._heartbeats.is_fresh(job.driver)]
        live: set[str] = set()
        for backend, some in by_backend(left).items():
            launcher = self._launcher_of(backend)
            live |= await self._ask(launcher, launcher.live, some)
        return {job.name for job in left} - live

    async def _look(self) -> None:
        """Settle what has come out since the last look."""
        if self._heartbeats.is_told_to_cancel(self._study):
            raise StudyCancelledError(f"{self._study}: cancelled from outside; finished stages stay, run it again to go on.")
        for one in list(self._followed.values()):
            self._adopt(one)
        # Jobs first, records second: of a job that has ended, every record is there.
        asked = [one for one in self._followed.values() if not one.refusals and one.exit is None]
        mine = [one.job for one in asked if self._is_mine(one.job)]
        for backend, some in by_backend(mine).items():
            launcher = self._launcher_of(backend)
            for name, ended in (await self._ask(launcher, launcher.poll, some)).items():
                self._followed[name].exit = ended
        others = {name: self._is_over(one.job) for name, one in self._followed.items() if not self._is_mine(one.job)}
        for name, one in list(self._followed.items()):
            self._settle_stages(one)
            if one.exit is not None:
                self._settle_job(one, one.exit)
            elif not others.get(name):  # its own driver says why it ended; what is left then is anybody's
                continue
            self._let_go(one)

    def _is_over(self, job: Job) -> bool:
        """Whether another driver's job has ended, or was taken back before it was submitted."""
        return job_end(self._store, job.name) is not None or not self._store.paths.job_spec(job.name).exists()

    def _let_go(self, one: _Followed) -> None:
        """Follow a job no longer; what it has left is done in others."""
        del self._followed[one.job.name]
        self._schedule.give_back(stage for stage in [*one.failed_before, *one.pending] if stage not in self._outcomes)

    def _settle_stages(self, one: _Followed) -> None:
        """A job makes its stages in order, so only the first that is not settled is looked at."""
        while one.pending:
            head = one.pending[0]
            if head in self._outcomes:
                pass
            elif self._store.has(head):
                self._schedule.publish(head)
                self._settle(head, Outcome(status="published"))
            elif (failure := self._failure_in(one.job, head)) is not None:
                if failure == self._failed_before.get(head):
                    one.failed_before.append(head)
                else:
                    self._fail(head, failure["cause"])
            else:
                return
            del one.pending[0]

    def _failure_in(self, job: Job, identity: str) -> dict[str, Any] | None:
        """How a stage failed in a job; none where it did not."""
        try:
            failure = self._store.failure(identity)
        except StoreError as error:
            return {"cause": str(error)}
        return failure if failure is not None and failure.get("job") == job.name else None

    def _settle_job(self, one: _Followed, ended: Exit) -> None:
        """A job has ended: a stage that it died in has failed, or is run again. It is written before it is taken as so."""
        end = job_end(self._store, one.job.name)
        cause = None
        in_a_stage = one.pending and end != "cut short" and not one.failed_before
        if in_a_stage and not is_cancelled(self._store, one.job.name):
            # Cut short: the stage that failed is settled, and the rest was not begun. Cancelled: by a driver that left.
            if ended.cause == "exited" and end is not None:
                ended = dataclasses.replace(ended, cause="preempted" if end == "stopped" else "lost")
            cause = self._judge(one, ended)
            if cause is not None and (words := last_words(self._store, one.pending[0], one.job.name)):
                cause = f"{cause}; its log ends: {words}"
        if cause is not None:
            self._write_failure(one.job, one.pending[0], cause)
        if end is None:
            self._write_end(one.job)
        if cause is not None:
            self._fail(one.pending[0], cause)

    def _judge(self, one: _Followed, ended: Exit) -> str | None:
        """Why the stage that a job was at when it ended has failed; none where it is run again."""
        what, allowed = f"its job {one.job.name} {ended.text}", MAX_RUNS_AGAIN.get(ended.cause, 0)
        if allowed == 0:
            return what
        if self._no_room is not None:
            return f"{what}; {self._no_room}"
        try:
            times = note_interruption(self._store, one.pending[0], one.job.name, ended)
        except UnwritableError:
            raise
        except StoreError as error:  # a damaged count
            return f"{what}; {error}"
        if times > allowed:
            return f"{what}; {ended.cause} {times} times, and is not run again"
        label = self._stages[one.pending[0]].label
        self._notice(f"{label}: {what}; run again ({ended.cause}: {times} of at most {allowed} times)")
        return None

    def _write_failure(self, job: Job, identity: str, cause: str) -> None:
        """Of a stage that failed and whose job could not say so."""
        with contextlib.suppress(UnwritableError):  # it is said at the end of the run, and made again by the next
            write_failure(self._store, job, identity, label=self._stages[identity].label, cause=cause)

    # -- submission ---------------------------------------------------------------------------------------------------

    async def _submit(self) -> None:
        again = [one for one in self._followed.values() if one.refusals and clock.monotonic() >= one.again_at]
        slots = sum(self._is_mine(one.job) for one in self._followed.values())
        new: list[_Followed] = []
        trouble: UnwritableError | None = None
        for identities in self._schedule.next_jobs(num_free=self._max_jobs - slots, num_slots=self._max_jobs):
            asked = self._new_job(identities)
            try:
                job = await self._claimed(asked) if trouble is None else None
            except UnwritableError as error:
                trouble, job = error, None
            if job is not None:
                new.append(_Followed(job, list(job.stage_ids)))
                self._followed[job.name] = new[-1]
                for identity in job.stage_ids:
                    self._on_change(identity, "submitted")
            elif trouble is not None:  # a job that could not be written down is none
                shutil.rmtree(self._store.paths.job(asked.name), ignore_errors=True)
                self._schedule.give_back(one for one in identities if one not in self._outcomes)
        if new or again:
            await self._hand_over([*again, *new])
        if trouble is not None:
            raise trouble

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
        if taken := [one for one in jobs if not self._answers_for(one.job)]:
            for one in taken:
                self._drop(one)
        jobs = [one for one in jobs if one not in taken]
        refused = await self._ask(self._launcher, self._launcher.submit, [one.job for one in jobs])
        for one in jobs:
            refusal = refused.get(one.job.name)
            if refusal is None:
                one.refusals = 0
            elif refusal.may_pass:
                self._put_off(one, refusal)
            else:
                cause = f"its job {one.job.name} was refused: {refusal.text}"
                for identity in one.pending:
                    if identity not in self._outcomes:
                        self._write_failure(one.job, identity, cause)
                        self._fail(identity, cause)
                self._drop(one)

    def _answers_for(self, job: Job) -> bool:
        """Whether a job is still this driver's, and its stages the job's: others take over what gives no sign of life."""
        try:
            return read_job(self._store, job.name).driver == self._me and not any(
                is_taken_over(self._store, identity, job.name) for identity in job.stage_ids
            )
        except StoreError:
            return False

    def _drop(self, one: _Followed) -> None:
        """A job that will never be submitted: what it has left is done in others."""
        with contextlib.suppress(UnwritableError):  # whoever finds it, and its driver gone, writes its end
            if job_end(self._store, one.job.name) is None:
                write_end(self._store, one.job.name, "gone")
        self._let_go(one)

    def _put_off(self, one: _Followed, refusal: Refusal) -> None:
        wait_s = min(FIRST_WAIT_S * 2**one.refusals, LONGEST_WAIT_S)
        if not one.refusals:
            self._notice(f"{self._stages[one.pending[0]].label}: not submitted yet, tried again: {refusal.text}")
        one.refusals += 1
        one.again_at = clock.monotonic() + wait_s

    async def _claimed(self, job: Job) -> Job | None:
        """The job with those of its stages that no other driver's job has; none if none is left. The others are followed."""
        write_job(self._store, job)  # before the claims, which hold only while there is a job
        dead = await self._dead(_distinct(self._holder_of(identity) for identity in job.stage_ids))
        holders: list[Job] = []
        failed: dict[str, str] = {}
        for identity in job.stage_ids:
            try:
                holder = claim(self._store, identity, job, dead=dead)
                cause = self._failed_meanwhile(identity) if holder is None else None
            except UnwritableError:
                raise
            except StoreError as error:  # a damaged file
                holder, cause = None, str(error)
            if holder is not None:
                holders.append(holder)
            elif cause is not None:
                failed[identity] = cause
        if holders or failed:
            self._schedule.give_back(job.stage_ids)
            for holder in holders:
                self._follow(holder)
            for identity, cause in failed.items():
                if identity not in self._outcomes:
                    self._fail(identity, cause)
            left = self._schedule.feasible(job.stage_ids)
            if not left:
                shutil.rmtree(self._store.paths.job(job.name), ignore_errors=True)
                return None
            self._schedule.take(left)
            job = dataclasses.replace(job, stages=tuple(stage for stage in job.stages if stage.id in left))
            write_job(self._store, job)
        return job

    def _failed_meanwhile(self, identity: str) -> str | None:
        """Why a stage has failed in a job of another driver since this one started; none where it has not.

        A stage that had failed before, and that this driver was started to try again, has all its runs again.
        """
        failure = self._store.failure(identity)
        if failure is None:
            return None
        if failure != self._failed_before.pop(identity, None):
            return failure["cause"]
        forget_interruptions(self._store, identity)
        self._store.clear_failure(identity)
        return None

    def _holder_of(self, identity: str) -> Job | None:
        with contextlib.suppress(StoreError):  # a damaged claim, which fails the stage when it is claimed
            return holder_of(self._store, identity)
        return None

    def _follow(self, job: Job) -> None:
        """Follow a job that another driver submitted, for the stages it still has to make of this study."""
        if job.name in self._followed:
            self._schedule.take(self._followed[job.name].pending)
            return
        # Only what it has claimed: two drivers that are at the same stages at once would wait for each other's jobs.
        pending = [
            identity
            for identity in job.stage_ids
            if identity in self._schedule.unsettled and not is_taken_over(self._store, identity, job.name)
        ]
        if pending:
            self._schedule.take(pending)
            self._followed[job.name] = _Followed(job, pending)
            self._adopt(self._followed[job.name])
            for identity in pending:
                self._on_change(identity, "submitted")

    def _adopt(self, one: _Followed) -> None:
        """Answer for a followed job whose own driver is gone: it takes a slot, and is cancelled with this driver."""
        former = one.job.driver
        if self._is_mine(one.job) or self._heartbeats.is_fresh(former):
            return
        with lock(self._store):
            try:
                job = read_job(self._store, one.job.name)
            except StoreError:  # it was taken back before it was submitted
                self._let_go(one)
                return
            if job.driver == former:
                job = dataclasses.replace(job, driver=self._me, former_drivers=(*job.former_drivers, former))
                write_job(self._store, job)
                why = "has left" if self._heartbeats.has_left(former) else "gives no sign of life"
                self._notice(f"job {job.name}: its driver, process {former.pid} of {former.host}, {why}; taken over")
            one.job = job

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
