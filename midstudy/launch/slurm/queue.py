"""Query the state of all jobs with one `squeue` or `sacct` call, and parse the output.

`squeue` asks the controller, which knows the current jobs and, for some minutes after a job's end (MinJobAge), how it ended.
`sacct` asks the accounting database, which lags by seconds and may be down for hours; it is used for jobs that the
controller no longer lists. Jobs are identified by name: the id may be unknown, and ids start again when a cluster is
reinstalled, while a name is used only once.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from midstudy.launch.launcher import Cause
from midstudy.launch.slurm.commands import SlurmCommands

_CAUSES: dict[str, Cause] = {
    "BOOT_FAIL": "node failed",
    "CANCELLED": "cancelled",
    "COMPLETED": "exited",
    "DEADLINE": "timed out",
    "FAILED": "exited",
    "NODE_FAIL": "node failed",
    "OUT_OF_MEMORY": "out of memory",
    "PREEMPTED": "preempted",
    "REVOKED": "lost",
    "TIMEOUT": "timed out",
}
"""The states in which a job has ended. In every other state it waits, runs, or is about to run again."""

MAY_COME_BACK = ("BOOT_FAIL", "NODE_FAIL", "PREEMPTED")
"""Final states after which Slurm may automatically requeue the job a moment later."""

CRASH_SIGNALS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGSYS, signal.SIGTRAP)
"""Signals that a process's own fault raises. It would crash again, so its stage is not retried."""

_SQUEUE = (
    *("squeue", "--noheader", "--me", "--array", "--states=all"),
    "--Format=JobArrayID:|,State:|,NodeList:|,exit_code:|,Reason:|,Name:|",
)
_SACCT = ("sacct", "--noheader", "--parsable2", "--format=JobID,State,ExitCode,NodeList,JobName")
_ARRAY = re.compile(r"(\d+)_\[([\d,:-]+)(?:%\d+)?\]")
_DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class SlurmJob:
    """A job, or one task of an array, as Slurm lists it.

    `id` is `1234` or `1234_5`; an array's tasks share its name. `node` may name several nodes, as in `n[1-3]`. `exit_status`
    is the batch script's exit status; `exit_signal` is the signal that killed the script or one of its steps. Both are zero
    if unknown or not applicable.
    """

    id: str
    name: str
    state: str
    node: str = ""
    reason: str = ""
    exit_status: int = 0
    exit_signal: int = 0

    @property
    def index(self) -> int | None:
        """The task index in an array; None for a single job."""
        _, _, index = self.id.partition("_")
        return int(index) if index else None

    @property
    def base_state(self) -> str:
        """The state without the user id, as in `CANCELLED by 0`."""
        return self.state.split()[0]

    @property
    def has_ended(self) -> bool:
        """True if the job is in a final state."""
        return self.base_state in _CAUSES

    @property
    def is_held(self) -> bool:
        """True if Slurm holds the job after a failed start; it stays pending until it is released."""
        return self.base_state == "PENDING" and "requeued_held" in self.reason.replace(" ", "_")

    @property
    def cause(self) -> Cause:
        """Why the job ended; only for a job that has ended."""
        if self.base_state == "FAILED" and self.exit_signal == signal.SIGUSR2:
            return "preempted"  # signalled before Python had installed its handler
        if self.base_state == "FAILED" and self.signal_name and self.exit_signal not in CRASH_SIGNALS:
            return "killed"
        return _CAUSES[self.base_state]

    @property
    def signal_name(self) -> str:
        """Name of the signal that killed the job; empty if none did."""
        try:
            return signal.Signals(self.exit_signal).name if self.exit_signal else ""
        except ValueError:
            return f"signal {self.exit_signal}"

    @property
    def text(self) -> str:
        """How the job ended, as text for the user."""
        how = self.state
        if self.base_state == "FAILED":
            how += f", {self.signal_name}" if self.signal_name else f", exit status {self.exit_status}"
        return f"was ended by Slurm: {how} ({self.place})"

    @property
    def place(self) -> str:
        """The job's id and node, as text for the user."""
        return f"Slurm job {self.id}" + (f" on node {self.node}" if self.node else "")


def squeue(commands: SlurmCommands) -> list[SlurmJob]:
    """Return all of this user's jobs that the controller lists: pending, running, and recently ended ones.

    Raises:
        SlurmAwayError: Slurm did not respond.
        SlurmRefusedError: Slurm refused the query.
    """
    return parse_squeue(commands.run(_SQUEUE))


def parse_squeue(text: str) -> list[SlurmJob]:
    """Parse the output of `squeue`; lines with too few fields are skipped."""
    jobs = []
    for line in text.splitlines():
        if line.count("|") < 6:
            continue
        ids, state, node, exit_code, reason, name = line.removesuffix("|").split("|", 5)
        # The exit code is encoded as in wait(2).
        status, number = _exit_status(*divmod(int(exit_code), 256)) if exit_code.isdigit() else (0, 0)
        for job_id in task_ids(ids):
            jobs.append(
                SlurmJob(
                    id=job_id,
                    name=name,
                    state=state,
                    node=_node(node),
                    reason=reason,
                    exit_status=status,
                    exit_signal=number,
                )
            )
    return jobs


def sacct(commands: SlurmCommands, names: Iterable[str], *, since: float) -> list[SlurmJob]:
    """Return the jobs with these names from the accounting database.

    Args:
        names: Slurm names of the jobs.
        since: Unix time of the oldest submission; clocks may differ by up to a day.

    Raises:
        SlurmAwayError: the database did not respond.
        SlurmRefusedError: there is no database, or it refused the query.
    """
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since - _DAY_S))
    return parse_sacct(commands.run((*_SACCT, f"--name={','.join(names)}", f"--starttime={start}")))


def parse_sacct(text: str) -> list[SlurmJob]:
    """Parse the output of `sacct`. A job's own line lacks the signal (128 + signal) of its end, so its steps supply it."""
    jobs: dict[str, SlurmJob] = {}
    for line in text.splitlines():
        if line.count("|") < 4:
            continue
        ids, state, exit_code, node, name = line.strip().split("|", 4)
        job_id, _, step = ids.partition(".")
        status, number = _exit_status(*(int(part or 0) for part in exit_code.partition(":")[::2]))
        if not step:
            for task_id in task_ids(ids):
                jobs[task_id] = SlurmJob(
                    id=task_id, name=name, state=state, node=_node(node), exit_status=status, exit_signal=number
                )
        elif job_id in jobs and jobs[job_id].base_state == "FAILED":  # steps are listed after their job
            if state.startswith("OUT_OF_ME"):
                jobs[job_id] = replace(jobs[job_id], state="OUT_OF_MEMORY")
            elif number:
                jobs[job_id] = replace(jobs[job_id], exit_signal=number)
    return list(jobs.values())


def task_ids(text: str) -> Iterator[str]:
    """Yield the ids that `1234`, `1234_5`, `1234_[4-7,9]` or `1234_[0-8:4%2]` stand for; nothing if it cannot be parsed."""
    if (match := _ARRAY.fullmatch(text)) is not None:
        for part in match[2].split(","):
            span, _, step = part.partition(":")
            first, _, last = span.partition("-")
            for index in range(int(first), int(last or first) + 1, int(step or 1)):
                yield f"{match[1]}_{index}"
    elif re.fullmatch(r"\d+(_\d+)?", text):
        yield text


def _node(text: str) -> str:
    return "" if text in ("None assigned", "(null)", "n/a") else text


def _exit_status(status: int, number: int) -> tuple[int, int]:
    """Return a batch script's status and signal. After a task is killed by a signal, srun exits with 128 + signal."""
    return (status, status - 128) if number == 0 and status > 128 else (status, number)
