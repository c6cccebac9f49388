"""Jobs of a Slurm cluster, through submitit.

The controller (`squeue`) says whether a job is there, and is asked about all jobs at once, seldom. That a job has made its
stages is known from the store and needs no question. What Slurm says of an end is believed where it is final: a job whose
node failed, or that was preempted, is put back into the queue a moment later.
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
"""How long a job may be in neither list before it is lost: sbatch's request may be under way, and sacct trails squeue."""

SETTLE_S = 20.0
"""How long an end that Slurm may take back, or that the job's own word is missing of, must last to be believed. File systems
that are shared show a file a few seconds late."""

SACCT_AWAY_S = 600.0
"""How long the end of a job that the controller has forgotten is waited for while the database is away."""

LEAVES_WITHIN_S = 60.0
"""How long a job that has said that it is done may take to leave."""

MAX_ARRAY = 1000
"""Slurm's own default limit is 1001 (MaxArraySize)."""

_DAY_S = 86_400.0
_HOLD_S = 5.0
_LEAVES_SOON_S = 10.0
_CANCEL_POLL_S = 0.5
_KILLED_WITHIN_S = 45.0
"""After scancel Slurm waits KillWait (30 s, if not set) before it kills."""

_MAY_PASS = (
    "job submit limit",  # also said of a time limit or size that is too large: indistinguishable, and tried again
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
"""What sbatch says of limits and of partitions that are down; all else would be refused again."""


_OUT_OF_MEMORY = ("exceeded memory limit", "oom_kill", "oom-kill")


@dataclass(frozen=True)
class _Listing:
    """One answer of squeue or sacct."""

    at_s: float
    by_id: Mapping[str, SlurmJob]
    by_place: Mapping[tuple[str, int | None], SlurmJob]

    @classmethod
    def of(cls, jobs: Iterable[SlurmJob]) -> _Listing:
        jobs = list(jobs)
        return cls(clock.monotonic(), {one.id: one for one in jobs}, {(one.name, one.index): one for one in jobs})

    def find(self, submission: Submission) -> SlurmJob | None:
        """The job that a submission became. A number alone proves nothing: it may be an older cluster's."""
        if submission.id is None:
            return self.by_place.get((submission.name, submission.index))
        found = self.by_id.get(submission.id)
        return found if found is not None and found.name == submission.name else None


class SlurmLauncher:
    """Runs each job as a Slurm job, equal ones that are submitted together as tasks of one array.

    Args:
        store: where the jobs are written down; on a disk that the nodes share.
        placements: what jobs ask of Slurm and how they compute.
        stages: those that jobs may be submitted for; none are needed to follow and end jobs.
        entry: the function that makes one stage, as MODULE:FUNCTION.
        on_notice: called with a line for people when Slurm does not answer, and when it does again.
        grace_s: how long a cancelled job may take to save itself before Slurm ends it.
        lost_after_s: how long a job may be unknown to Slurm.
        settle_s: how long an end must last that Slurm may take back.
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
        self._asked_s = float("-inf")
        self._unclear_since: dict[str, float] = {}
        self._leaving: dict[str, float] = {}
        self._has_former = False
        self._known_since: dict[str, float] = {}
        self._released: dict[str, float] = {}
        self._away: set[str] = set()

    # -- placing ------------------------------------------------------------------------------------------------------

    def placement_for(self, stages: Sequence[Stage]) -> Placement:
        return self._placements.place(stages[0]).compute

    def pack_key(self, stage: Stage) -> Hashable:
        return self._placements.place(stage)

    # -- submitting ---------------------------------------------------------------------------------------------------

    def submit(self, jobs: Sequence[Job]) -> dict[str, Refusal]:
        refused: dict[str, Refusal] = {}
        equal: dict[tuple[JobPlacement, str], list[Job]] = {}
        for job in self._not_submitted(jobs, refused):
            place = self._placements.place(self._stages[job.stage_ids[0]])
            equal.setdefault((place, job.study), []).append(job)
        for (place, _), some in equal.items():
            for first in range(0, len(some), MAX_ARRAY):
                batch = some[first : first + MAX_ARRAY]
                if (refusal := self._submit_together(batch, place)) is not None:
                    refused |= {job.name: refusal for job in batch}
        return refused

    def _not_submitted(self, jobs: Sequence[Job], refused: dict[str, Refusal]) -> list[Job]:
        """Those that Slurm does not have; of earlier submissions whose answer was lost it is asked first."""
        left = []
        for job in jobs:
            submission = read_submission(self._store, job.name)
            if submission is None:
                left.append(job)
                continue
            listing = self._squeue(max_age_s=1.0)
            found = listing.find(submission) if listing is not None else None
            if found is not None:
                self._keep_id(job.name, submission, found)
            elif submission.id is not None:
                pass  # it was submitted, and `poll` will say what became of it
            elif listing is None or self._may_be_under_way(job.name, submission):
                refused[job.name] = Refusal(
                    text=f"sbatch gave no answer; Slurm is asked for a job called {submission.name} before it is "
                    "submitted again",
                    may_pass=True,
                )
            else:
                left.append(job)
        return left

    def _may_be_under_way(self, name: str, submission: Submission) -> bool:
        """Whether a job that is in no list may have been handed over so lately that it will be.

        Counted from when this process knew of it: clocks are set, and those of other hosts differ, though not by days.
        """
        known_s = clock.monotonic() - self._known_since.setdefault(name, clock.monotonic())
        return known_s < self._lost_after_s and clock.now() - submission.submitted_at < _DAY_S

    def _submit_together(self, jobs: Sequence[Job], place: JobPlacement) -> Refusal | None:
        name, now = jobs[0].name, clock.now()
        folders = [self._store.paths.job_submitit(job.name) for job in jobs]
        asked = [
            Submission(name=name, index=index if len(jobs) > 1 else None, submitted_at=now) for index in range(len(jobs))
        ]
        try:
            executor = StoreExecutor(folders, place, name=name, comment=f"midstudy {jobs[0].study}", commands=self._commands)
            for job, submission in zip(jobs, asked, strict=True):
                write_submission(self._store, job.name, submission)
                self._known_since[job.name] = clock.monotonic()
            made = executor.map_array(run_job, [str(self._store.root)] * len(jobs), [job.name for job in jobs])
        except SlurmAwayError as error:
            return Refusal(text=f"Slurm gave no answer: {error}", may_pass=True)
        except SlurmRefusedError as error:
            for job in jobs:
                self._store.paths.job_slurm(job.name).unlink(missing_ok=True)
            return Refusal(text=f"Slurm refused it: {error}", may_pass=any(sign in str(error) for sign in _MAY_PASS))
        except StoreError as error:
            return Refusal(text=str(error), may_pass=True)
        except OSError as error:
            may_pass = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EAGAIN, errno.EMFILE)
            return Refusal(text=str(unwritable(folders[0], error)), may_pass=may_pass)
        for job, submission, slurm_job in zip(jobs, asked, made, strict=True):
            self._keep_id(job.name, submission, slurm_job.job_id)
        return None

    def _keep_id(self, job: str, submission: Submission, found: SlurmJob | str) -> Submission:
        """Write a job's number down where it was not known."""
        if submission.id is not None:
            return submission
        submission = replace(submission, id=found if isinstance(found, str) else found.id)
        with contextlib.suppress(StoreError):  # then it is found by its name again
            write_submission(self._store, job, submission)
        return submission

    # -- following ----------------------------------------------------------------------------------------------------

    def poll(self, jobs: Sequence[Job]) -> dict[str, Exit]:
        ended: dict[str, Exit] = {}
        asked: list[Job] = []
        for job in jobs:
            if job_end(self._store, job.name) in ("done", "cut short"):  # the job's own word: Slurm need not be asked
                ended[job.name] = Exit(text="ended", cause="exited")
                self._leaving.setdefault(job.name, clock.monotonic())
            else:
                asked.append(job)
        if clock.monotonic() < self._asked_s + self._placements.jobs.poll_s or not (asked or self._leaving):
            return ended
        self._asked_s = clock.monotonic()
        listing = self._squeue(max_age_s=0.0)
        if listing is None:
            return ended
        self._take_in_former(listing)
        self._end_leaving(listing)
        entries = {job.name: self._listed(job, listing) for job in asked}
        unlisted = {
            name: submission for name, (submission, entry) in entries.items() if submission is not None and entry is None
        }
        accounts = self._sacct(unlisted.values()) if unlisted else None
        for job in asked:
            submission, entry = entries[job.name]
            exit = self._exit(job, submission, entry, accounts)
            if exit is not None and (submission is None or self._is_final(job, submission, exit)):
                ended[job.name] = exit
                self._unclear_since.pop(job.name, None)
        return ended

    def _is_final(self, job: Job, submission: Submission, exit: Exit) -> bool:
        """Whether the job cannot come back; one that Slurm might bring back is cancelled: somebody else makes its stages.

        That it has ended is written down first, and believed at the next look: a job that Slurm starts in between is seen
        there, and one that it starts later reads that it has ended.
        """
        if exit.cause in ("node failed", "preempted", "lost"):
            if submission.ended is None:
                with contextlib.suppress(StoreError):  # there will be room again
                    write_submission(self._store, job.name, replace(submission, ended=exit))
                return False
            self._scancel([submission])
            self._leaving[job.name] = float("-inf")  # told again, should Slurm not have heard
        return True

    def _listed(self, job: Job, listing: _Listing) -> tuple[Submission | None, SlurmJob | None]:
        submission = read_submission(self._store, job.name)
        entry = listing.find(submission) if submission is not None else None
        if submission is not None and entry is not None:
            submission = self._keep_id(job.name, submission, entry)
        return submission, entry

    def _exit(
        self, job: Job, submission: Submission | None, entry: SlurmJob | None, accounts: _Listing | None
    ) -> Exit | None:
        """How a job ended; none while it has not, or while that is not certain."""
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
        said = job_end(self._store, job.name) is not None
        if entry.base_state in MAY_COME_BACK and unclear_s < self._settle_s:
            return None
        if entry.base_state == "COMPLETED" and not said:
            if unclear_s < self._settle_s:
                return None
            # Slurm says so, too, of a job that somebody ended just before its controller was restarted.
            return Exit(text=f"ended without a word ({entry.place})", cause="lost")
        if entry.base_state == "COMPLETED":
            return Exit(text=f"stopped ({entry.place})", cause="preempted")
        if entry.cause == "killed" and (line := self._memory_line(job)) is not None:
            return Exit(text=f"{entry.text}: {line}", cause="out of memory")
        return Exit(text=entry.text, cause=entry.cause)

    def _memory_line(self, job: Job) -> str | None:
        """What Slurm wrote into a job's log when it used up its memory: not every cluster says so by the state."""
        log = job_log(self._store, job.name)
        lines = log.read_text("utf-8", errors="replace").splitlines()[-LAST_LINES:] if log is not None else []
        found = [line for line in lines if line.startswith("slurmstepd") and any(sign in line for sign in _OUT_OF_MEMORY)]
        return found[-1] if found else None

    def _unlisted(self, job: Job, submission: Submission, unclear_s: float, accounts: _Listing | None) -> Exit | None:
        """Of a job that the controller does not list and the database knows no end of."""
        place = f"Slurm job {submission.id or submission.name}"
        if job_end(self._store, job.name) is not None and unclear_s > self._settle_s:
            return Exit(text=f"stopped ({place})", cause="preempted")
        if accounts is None:
            if unclear_s < SACCT_AWAY_S:
                return None
            return Exit(text=f"ended, and sacct does not say how ({place})", cause="lost")
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
        found = {name: listing.find(submission) for name, submission in submissions.items()}
        unlisted = [submissions[name] for name, entry in found.items() if entry is None]
        accounts = self._sacct(unlisted) if unlisted else None
        live = set()
        for name, entry in found.items():
            submission = submissions[name]
            if entry is None and accounts is not None:
                entry = accounts.find(submission)
            if entry is not None:
                self._keep_id(name, submission, entry)
                if not entry.has_ended or entry.base_state in MAY_COME_BACK:  # `poll` finds out whether it does
                    live.add(name)
            elif accounts is None or self._may_be_under_way(name, submission):
                live.add(name)
        return live

    def places(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Of these jobs, by name, what Slurm calls them and says of them, for people."""
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
        # Those that have made their stages are leaving, and need not be listed as cancelled for that.
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
            name: one
            for name in (*(job.name for job in leaving), *self._leaving)
            if (one := read_submission(self._store, name))
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
        return {job.name: one for job in jobs if (one := read_submission(self._store, job.name))}

    def _cancel_listed(
        self, submissions: Mapping[str, Submission], listing: _Listing, *, force: bool
    ) -> dict[str, Submission]:
        """End what waits, tell what runs; returns those that are still there."""
        left: dict[str, Submission] = {}
        waiting: list[Submission] = []
        running: list[Submission] = []
        for name, submission in submissions.items():
            entry = listing.find(submission)
            if entry is not None and entry.has_ended:
                continue
            if entry is None:
                if submission.id is None and not force:
                    left[name] = submission  # its submission may be under way
                continue
            left[name] = submission = self._keep_id(name, submission, entry)
            if entry.base_state != "COMPLETING":
                (running if entry.base_state == "RUNNING" and not force else waiting).append(submission)
        self._scancel(waiting)
        self._scancel(running, "--signal=TERM")  # said again at every look: one that comes before Python is up gets lost
        return left

    def _take_in_former(self, listing: _Listing) -> None:
        """Jobs of earlier drivers that have ended and that Slurm still lists, or lists again: looked for once."""
        if self._has_former:
            return
        self._has_former = True
        for name in job_names(self._store):
            if job_end(self._store, name) is not None and (submission := read_submission(self._store, name)) is not None:
                entry = listing.find(submission)
                if entry is not None and not entry.has_ended:
                    self._leaving.setdefault(name, clock.monotonic())

    def _end_leaving(self, listing: _Listing) -> None:
        """Jobs that have ended long ago, and hang or were put back into the queue: Slurm is told."""
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
        for name, ids in by_name.items():  # a controller that was killed may have given a number away again
            self._tell(("scancel", *options, f"--name={name}", *ids))

    def _release(self, entry: SlurmJob) -> None:
        """Let a job go that Slurm holds back after it could not start it, as it does when a node or the controller dies."""
        if clock.monotonic() - self._released.get(entry.id, float("-inf")) > _HOLD_S:
            self._released[entry.id] = clock.monotonic()
            self._tell(("scontrol", "release", entry.id))

    def _tell(self, command: Sequence[str]) -> None:
        """Give a command whose effect the next look at the queue shows."""
        try:
            self._commands.run(command)
        except SlurmAwayError as error:
            self._note_away("Slurm", error)
        except SlurmRefusedError:
            pass  # such as a job that has just ended

    # -- asking -------------------------------------------------------------------------------------------------------

    def _squeue(self, *, max_age_s: float) -> _Listing | None:
        """All jobs that the controller knows; none where it does not answer."""
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
        """These jobs in the accounting database; none where it does not answer, nothing where there is none."""
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
            self._notice(f"{name} does not answer, waiting for it; jobs go on meanwhile ({error})")

    def _note_back(self, name: str) -> None:
        if name in self._away:
            self._away.remove(name)
            self._notice(f"{name} answers again")
