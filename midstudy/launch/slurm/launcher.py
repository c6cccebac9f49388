"""Slurm backend: run jobs on a Slurm cluster, through submitit.

The controller (`squeue`) knows which jobs exist; it is queried rarely, and for all jobs at once. Finished stages are read
from the store without a query. A job's end as reported by Slurm counts only once it is final: a job that was preempted, or
whose node failed, is often requeued a moment later.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from midstudy.files.errors import StoreError, unwritable
from midstudy.launch import clock
from midstudy.launch.job import run_job
from midstudy.launch.job_file import EXECUTE_STAGE, Job, job_end, job_log, job_names, mark_cancelled
from midstudy.launch.launcher import Exit, Refusal
from midstudy.launch.log import LAST_LINES
from midstudy.launch.slurm.batch_file import Submission, read_submission, write_submission
from midstudy.launch.slurm.commands import SlurmAwayError, SlurmCommands, SlurmRefusedError
from midstudy.launch.slurm.executor import StoreExecutor
from midstudy.launch.slurm.placement_file import JobPlacement, PlacementFile
from midstudy.launch.slurm.queue import MAY_COME_BACK, SlurmJob, sacct, squeue
from midstudy.recipe.stage import Stage
from midstudy.store.store import Store
from midstudy.train.placement import Placement

LOST_AFTER_S = 60.0
"""How long a job may be missing from squeue and sacct before it is lost: sbatch may be in progress, and sacct lags."""

SETTLE_S = 20.0
"""How long an end must last to count if Slurm may revoke it or the job has not reported it. Shared file systems show a file
a few seconds late."""

SACCT_AWAY_S = 600.0
"""How long to wait for an unavailable accounting database, for a job that the controller no longer lists."""

LEAVES_WITHIN_S = 60.0
"""How long a job that has written its end may take to exit."""

MAX_ARRAY = 1000
"""Slurm's own default limit is 1001 (MaxArraySize)."""

_DAY_S = 86_400.0
_HOLD_S = 5.0
_LEAVES_SOON_S = 10.0
_CANCEL_POLL_S = 0.5
_KILLED_WITHIN_S = 45.0
"""After scancel, Slurm waits KillWait (default: 30 s) before it kills."""

_MAY_PASS = (
    "job submit limit",  # same message for an excessive time limit or size, so those are retried as well
    "accounting/QOS policy",
    "AssocMaxSubmitJobLimit",
    "QOSMaxSubmitJobPerUserLimit",
    "temporarily unable to accept job",
    "temporarily unavailable",
    "Required partition not available",
    "Required node not available",
    "configuration not available now",
    "too many jobs",
)
"""Messages of sbatch about limits and partitions that are down. After any other refusal, a retry would fail again."""

_OUT_OF_MEMORY = ("exceeded memory limit", "oom_kill", "oom-kill")


@dataclass(frozen=True)
class _Listing:
    """One result of squeue or sacct, taken at `at_s` (monotonic seconds)."""

    at_s: float
    by_id: Mapping[str, SlurmJob]
    by_place: Mapping[tuple[str, int | None], SlurmJob]

    @classmethod
    def of(cls, jobs: Iterable[SlurmJob]) -> _Listing:
        jobs = list(jobs)
        return cls(clock.monotonic(), {job.id: job for job in jobs}, {(job.name, job.index): job for job in jobs})

    def find(self, submission: Submission) -> SlurmJob | None:
        """Return the job of a submission; None if it is not listed. The id alone is not enough: ids can be reused."""
        if submission.id is None:
            return self.by_place.get((submission.name, submission.index))
        job = self.by_id.get(submission.id)
        return job if job is not None and job.name == submission.name else None


class SlurmLauncher:
    """Run each job as a Slurm job; jobs with equal placements that are submitted together become tasks of one array.

    Args:
        store: the store that holds the jobs' files, on a disk that all nodes share.
        placements: the jobs' Slurm resources and compute placement.
        stages: the stages that jobs may be submitted for, by id. Not needed to follow and end jobs.
        commands: runs Slurm's commands.
        entry: the function that executes one stage, as MODULE:FUNCTION.
        on_notice: called with a line for the user when Slurm stops responding, and when it responds again.
        grace_s: how long a cancelled job may take to save its work before Slurm kills it.
        lost_after_s: how long a job may be unknown to Slurm before it is lost.
        settle_s: how long an end that Slurm may revoke must last before it counts.
    """

    backend = "slurm"
    calls_block = True

    def __init__(
        self,
        store: Store,
        placements: PlacementFile | None = None,
        stages: Mapping[str, Stage] | None = None,
        *,
        commands: SlurmCommands | None = None,
        entry: str = EXECUTE_STAGE,
        on_notice: Callable[[str], None] = lambda line: None,
        grace_s: float = 60.0,
        lost_after_s: float = LOST_AFTER_S,
        settle_s: float = SETTLE_S,
    ) -> None:
        self._store, self._stages, self.entry = store, stages or {}, entry
        self._notice = on_notice
        self._placements, self._commands = placements or PlacementFile(), commands or SlurmCommands()
        self._grace_s, self._lost_after_s, self._settle_s = grace_s, lost_after_s, settle_s
        self._listing: _Listing | None = None
        self._polled_s = float("-inf")
        self._unclear_since: dict[str, float] = {}
        self._leaving: dict[str, float] = {}
        self._has_checked_previous = False
        self._known_since: dict[str, float] = {}
        self._released: dict[str, float] = {}
        self._away: set[str] = set()

    # -- placement ----------------------------------------------------------------------------------------------------

    def placement_for(self, stages: Sequence[Stage]) -> Placement:
        return self._placements.place(stages[0]).compute

    def pack_key(self, stage: Stage) -> Hashable:
        return self._placements.place(stage)

    # -- submission ---------------------------------------------------------------------------------------------------

    def submit(self, jobs: Sequence[Job]) -> dict[str, Refusal]:
        refused: dict[str, Refusal] = {}
        groups: dict[tuple[JobPlacement, str], list[Job]] = {}
        for job in self._not_submitted(jobs, refused):
            place = self._placements.place(self._stages[job.stage_ids[0]])
            groups.setdefault((place, job.study), []).append(job)
        for (place, _), group in groups.items():
            for first in range(0, len(group), MAX_ARRAY):
                batch = group[first : first + MAX_ARRAY]
                if (refusal := self._submit_together(batch, place)) is not None:
                    refused |= {job.name: refusal for job in batch}
        return refused

    def _not_submitted(self, jobs: Sequence[Job], refused: dict[str, Refusal]) -> list[Job]:
        """Return the jobs that Slurm does not have. Jobs whose earlier submission was not answered are looked up first."""
        left = []
        for job in jobs:
            submission = read_submission(self._store, job.name)
            if submission is None:
                left.append(job)
                continue
            listing = self._squeue(max_age_s=1.0)
            entry = listing.find(submission) if listing is not None else None
            if entry is not None:
                self._keep_id(job.name, submission, entry)
            elif submission.id is not None:
                pass  # it was submitted, and `poll` will report its end
            elif listing is None or self._may_be_in_progress(job.name, submission):
                refused[job.name] = Refusal(
                    text=f"sbatch did not respond; Slurm is searched for a job named {submission.name} before it is "
                    "submitted again",
                    may_pass=True,
                )
            else:
                left.append(job)
        return left

    def _may_be_in_progress(self, name: str, submission: Submission) -> bool:
        """Return whether an unlisted job may have been submitted so recently that it will still be listed.

        Measured from when this process first saw the job: clocks get adjusted and differ between hosts, though not by days.
        """
        known_s = clock.monotonic() - self._known_since.setdefault(name, clock.monotonic())
        return known_s < self._lost_after_s and clock.now() - submission.submitted_at < _DAY_S

    def _submit_together(self, jobs: Sequence[Job], place: JobPlacement) -> Refusal | None:
        name, now = jobs[0].name, clock.now()
        folders = [self._store.paths.job_submitit(job.name) for job in jobs]
        submissions = [
            Submission(name=name, index=index if len(jobs) > 1 else None, submitted_at=now) for index in range(len(jobs))
        ]
        try:
            executor = StoreExecutor(folders, place, name=name, comment=f"midstudy {jobs[0].study}", commands=self._commands)
            for job, submission in zip(jobs, submissions, strict=True):
                write_submission(self._store, job.name, submission)
                self._known_since[job.name] = clock.monotonic()
            slurm_jobs = executor.map_array(run_job, [str(self._store.root)] * len(jobs), [job.name for job in jobs])
        except SlurmAwayError as error:
            return Refusal(text=f"Slurm did not respond: {error}", may_pass=True)
        except SlurmRefusedError as error:
            for job in jobs:
                self._store.paths.job_slurm(job.name).unlink(missing_ok=True)
            return Refusal(text=f"Slurm refused it: {error}", may_pass=any(sign in str(error) for sign in _MAY_PASS))
        except StoreError as error:
            return Refusal(text=str(error), may_pass=True)
        except OSError as error:
            may_pass = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EAGAIN, errno.EMFILE)
            return Refusal(text=str(unwritable(folders[0], error)), may_pass=may_pass)
        for job, submission, slurm_job in zip(jobs, submissions, slurm_jobs, strict=True):
            self._keep_id(job.name, submission, slurm_job.job_id)
        return None

    def _keep_id(self, job: str, submission: Submission, known: SlurmJob | str) -> Submission:
        """Write a job's Slurm id to slurm.json if it is not there yet; return the submission with its id."""
        if submission.id is not None:
            return submission
        submission = replace(submission, id=known if isinstance(known, str) else known.id)
        with contextlib.suppress(StoreError):  # the job is then found by its name again
            write_submission(self._store, job, submission)
        return submission

    # -- polling ------------------------------------------------------------------------------------------------------

    def poll(self, jobs: Sequence[Job]) -> dict[str, Exit]:
        ended: dict[str, Exit] = {}
        unknown: list[Job] = []
        for job in jobs:
            if job_end(self._store, job.name) in ("done", "cut short"):  # reported by the job itself, without asking Slurm
                ended[job.name] = Exit(text="ended", cause="exited")
                self._leaving.setdefault(job.name, clock.monotonic())
            else:
                unknown.append(job)
        if clock.monotonic() < self._polled_s + self._placements.jobs.poll_s or not (unknown or self._leaving):
            return ended
        self._polled_s = clock.monotonic()
        listing = self._squeue(max_age_s=0.0)
        if listing is None:
            return ended
        self._find_previous(listing)
        self._end_leaving(listing)
        entries = {job.name: self._listed(job, listing) for job in unknown}
        unlisted = {
            name: submission for name, (submission, entry) in entries.items() if submission is not None and entry is None
        }
        accounts = self._sacct(unlisted.values()) if unlisted else None
        for job in unknown:
            submission, entry = entries[job.name]
            exit = self._exit(job, submission, entry, accounts)
            if exit is not None and (submission is None or self._is_final(job, submission, exit)):
                ended[job.name] = exit
                self._unclear_since.pop(job.name, None)
        return ended

    def _is_final(self, job: Job, submission: Submission, exit: Exit) -> bool:
        """Return whether the job cannot come back. One that Slurm might restart is cancelled: another job runs its stages.

        Its end is first written to slurm.json, and counts only at the next poll: if Slurm restarts the job in between, that
        poll sees it; if Slurm restarts it later, the job reads its own end and exits.
        """
        if exit.cause in ("node failed", "preempted", "lost"):
            if submission.ended is None:
                with contextlib.suppress(StoreError):  # a full disk is temporary
                    write_submission(self._store, job.name, replace(submission, ended=exit))
                return False
            self._scancel([submission])
            self._leaving[job.name] = float("-inf")  # cancelled again at the next poll, in case Slurm did not respond
        return True

    def _listed(self, job: Job, listing: _Listing) -> tuple[Submission | None, SlurmJob | None]:
        """Return a job's submission and its entry in a listing, each None if missing."""
        submission = read_submission(self._store, job.name)
        entry = listing.find(submission) if submission is not None else None
        if submission is not None and entry is not None:
            submission = self._keep_id(job.name, submission, entry)
        return submission, entry

    def _exit(
        self, job: Job, submission: Submission | None, entry: SlurmJob | None, accounts: _Listing | None
    ) -> Exit | None:
        """Return how a job ended; None while it has not, or while this is uncertain."""
        if submission is None:
            return Exit(text="was never submitted", cause="lost")
        if submission.ended is not None:
            if entry is None or entry.base_state != "RUNNING":
                return submission.ended
            self._scancel([submission])
            return None
        if entry is not None and not entry.has_ended:
            self._unclear_since.pop(job.name, None)
            if entry.is_held:
                self._release(entry)
            return None
        unclear_s = clock.monotonic() - self._unclear_since.setdefault(job.name, clock.monotonic())
        account = accounts.find(submission) if accounts is not None else None
        if entry is None and (account is None or not account.has_ended):
            return self._unlisted(job, submission, unclear_s, accounts)
        entry = entry or account
        assert entry is not None
        has_reported = job_end(self._store, job.name) is not None
        if entry.base_state in MAY_COME_BACK and unclear_s < self._settle_s:
            return None
        if entry.base_state == "COMPLETED" and not has_reported:
            if unclear_s < self._settle_s:
                return None
            # Slurm also reports this state for a job that was cancelled just before the controller was restarted.
            return Exit(text=f"exited without reporting a result ({entry.place})", cause="lost")
        if entry.base_state == "COMPLETED":
            return Exit(text=f"stopped ({entry.place})", cause="preempted")
        if entry.cause == "killed" and (line := self._memory_line(job)) is not None:
            return Exit(text=f"{entry.text}: {line}", cause="out of memory")
        return Exit(text=entry.text, cause=entry.cause)

    def _memory_line(self, job: Job) -> str | None:
        """Return Slurm's out-of-memory message in a job's log, if any: not every cluster reports it as the job's state."""
        log = job_log(self._store, job.name)
        lines = log.read_text("utf-8", errors="replace").splitlines()[-LAST_LINES:] if log is not None else []
        matches = [line for line in lines if line.startswith("slurmstepd") and any(sign in line for sign in _OUT_OF_MEMORY)]
        return matches[-1] if matches else None

    def _unlisted(self, job: Job, submission: Submission, unclear_s: float, accounts: _Listing | None) -> Exit | None:
        """Return how a job ended that the controller does not list and whose end the database does not know."""
        place = f"Slurm job {submission.id or submission.name}"
        if job_end(self._store, job.name) is not None and unclear_s > self._settle_s:
            return Exit(text=f"stopped ({place})", cause="preempted")
        if accounts is None:
            if unclear_s < SACCT_AWAY_S:
                return None
            return Exit(text=f"ended, but sacct does not report how ({place})", cause="lost")
        if unclear_s < self._lost_after_s:
            return None
        return Exit(text=f"is unknown to Slurm: neither squeue nor sacct lists it ({place})", cause="lost")

    def live(self, jobs: Sequence[Job]) -> set[str]:
        submissions = self._submissions(jobs)
        if not submissions:
            return set()
        listing = self._squeue(max_age_s=1.0)
        if listing is None:
            return set(submissions)
        entries = {name: listing.find(submission) for name, submission in submissions.items()}
        unlisted = [submissions[name] for name, entry in entries.items() if entry is None]
        accounts = self._sacct(unlisted) if unlisted else None
        live = set()
        for name, entry in entries.items():
            submission = submissions[name]
            if entry is None and accounts is not None:
                entry = accounts.find(submission)
            if entry is not None:
                self._keep_id(name, submission, entry)
                if not entry.has_ended or entry.base_state in MAY_COME_BACK:  # `poll` decides whether it has really ended
                    live.add(name)
            elif accounts is None or self._may_be_in_progress(name, submission):
                live.add(name)
        return live

    def places(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Return the Slurm id, node and state of the submitted ones of these jobs, by job name, as text for the user."""
        listing = self._squeue(max_age_s=1.0)
        texts = {}
        for job in jobs:
            submission = read_submission(self._store, job.name)
            if submission is None:
                continue
            entry = listing.find(submission) if listing is not None else None
            if entry is None:
                texts[job.name] = f"Slurm job {submission.id or submission.name}"
            else:
                why = f" ({entry.reason})" if entry.reason not in ("", "None") else ""
                texts[job.name] = f"{entry.place} {entry.state}{why}"
        return texts

    # -- ending -------------------------------------------------------------------------------------------------------

    def cancel(self, jobs: Sequence[Job]) -> None:
        # Jobs that have finished their stages are exiting anyway and should not be listed as cancelled.
        leaving = [job for job in jobs if len(self._store.published(job.stage_ids)) == len(job.stage_ids)]
        cancelled = [job for job in jobs if job not in leaving]
        for job in cancelled:
            mark_cancelled(self._store, job.name)
        left = self._submissions(cancelled)
        began = clock.monotonic()
        while left and clock.monotonic() < began + self._grace_s + _KILLED_WITHIN_S:
            if (listing := self._squeue(max_age_s=0.0)) is not None:
                left = self._cancel_listed(left, listing, force=clock.monotonic() > began + self._grace_s)
            if left:
                clock.sleep(_CANCEL_POLL_S)
        left = {
            name: submission
            for name in (*(job.name for job in leaving), *self._leaving)
            if (submission := read_submission(self._store, name))
        }
        while left:
            if (listing := self._squeue(max_age_s=0.0)) is not None:
                entries = {name: listing.find(submission) for name, submission in left.items()}
                left = {name: left[name] for name, entry in entries.items() if entry is not None and not entry.has_ended}
            if clock.monotonic() > began + _LEAVES_SOON_S:
                break
            if left:
                clock.sleep(_CANCEL_POLL_S)
        self._scancel(left.values())

    def _submissions(self, jobs: Iterable[Job]) -> dict[str, Submission]:
        return {job.name: submission for job in jobs if (submission := read_submission(self._store, job.name))}

    def _cancel_listed(
        self, submissions: Mapping[str, Submission], listing: _Listing, *, force: bool
    ) -> dict[str, Submission]:
        """Cancel pending jobs and signal running ones; return those that still exist."""
        left: dict[str, Submission] = {}
        waiting: list[Submission] = []
        running: list[Submission] = []
        for name, submission in submissions.items():
            entry = listing.find(submission)
            if entry is not None and entry.has_ended:
                continue
            if entry is None:
                if submission.id is None and not force:
                    left[name] = submission  # its submission may be in progress
                continue
            left[name] = submission = self._keep_id(name, submission, entry)
            if entry.base_state != "COMPLETING":
                (running if entry.base_state == "RUNNING" and not force else waiting).append(submission)
        self._scancel(waiting)
        self._scancel(running, "--signal=TERM")  # sent at every poll: a signal before Python is up gets lost
        return left

    def _find_previous(self, listing: _Listing) -> None:
        """Find, once, jobs of earlier drivers that have ended but that Slurm still lists, or lists again."""
        if self._has_checked_previous:
            return
        self._has_checked_previous = True
        for name in job_names(self._store):
            if job_end(self._store, name) is not None and (submission := read_submission(self._store, name)) is not None:
                entry = listing.find(submission)
                if entry is not None and not entry.has_ended:
                    self._leaving.setdefault(name, clock.monotonic())

    def _end_leaving(self, listing: _Listing) -> None:
        """Cancel jobs that ended a while ago but hang or were requeued."""
        for name, since in list(self._leaving.items()):
            submission = read_submission(self._store, name)
            entry = listing.find(submission) if submission is not None else None
            if entry is None or entry.has_ended:
                del self._leaving[name]
            elif clock.monotonic() - since > LEAVES_WITHIN_S and submission is not None:
                self._scancel([submission])

    def _scancel(self, submissions: Iterable[Submission], *options: str) -> None:
        by_name: dict[str, list[str]] = {}
        for submission in submissions:
            if submission.id is not None:
                by_name.setdefault(submission.name, []).append(submission.id)
        for name, ids in by_name.items():  # after a crash, the controller may have reused an id
            self._request(("scancel", *options, f"--name={name}", *ids))

    def _release(self, entry: SlurmJob) -> None:
        """Release a job that Slurm holds because it could not start it, as happens when a node or the controller dies."""
        if clock.monotonic() - self._released.get(entry.id, float("-inf")) > _HOLD_S:
            self._released[entry.id] = clock.monotonic()
            self._request(("scontrol", "release", entry.id))

    def _request(self, command: Sequence[str]) -> None:
        """Run a command whose effect the next poll of the queue shows."""
        try:
            self._commands.run(command)
        except SlurmAwayError as error:
            self._note_away("Slurm", error)
        except SlurmRefusedError:
            pass  # for example, the job has just ended

    # -- queries ------------------------------------------------------------------------------------------------------

    def _squeue(self, *, max_age_s: float) -> _Listing | None:
        """Return all jobs that the controller lists, at most `max_age_s` old; None if it does not respond."""
        if self._listing is not None and clock.monotonic() - self._listing.at_s < max_age_s:
            return self._listing
        try:
            self._listing = _Listing.of(squeue(self._commands))
        except (SlurmAwayError, SlurmRefusedError) as error:
            self._note_away("Slurm", error)
            return None
        self._note_back("Slurm")
        return self._listing

    def _sacct(self, submissions: Iterable[Submission]) -> _Listing | None:
        """Return these jobs in the accounting database; None if it does not respond, empty if there is no database."""
        submissions = list(submissions)
        names = dict.fromkeys(submission.name for submission in submissions)
        try:
            jobs = sacct(self._commands, names, since=min(submission.submitted_at for submission in submissions))
        except SlurmAwayError as error:
            self._note_away("sacct", error)
            return None
        except SlurmRefusedError:  # accounting storage is disabled
            return _Listing.of(())
        self._note_back("sacct")
        return _Listing.of(jobs)

    def _note_away(self, name: str, error: Exception) -> None:
        if name not in self._away:
            self._away.add(name)
            self._notice(f"{name} does not respond, waiting for it; jobs keep running ({error})")

    def _note_back(self, name: str) -> None:
        if name in self._away:
            self._away.remove(name)
            self._notice(f"{name} responds again")
