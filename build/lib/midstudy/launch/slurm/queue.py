"""What Slurm says of jobs: one `squeue` or one `sacct` for all of them, parsed.

`squeue` is the controller's word: whether a job is there, and for some minutes after its end (MinJobAge) how it ended.
`sacct` is a database that trails it by seconds and may be down for hours; it is asked of jobs that the controller has
forgotten. Jobs are known by name: the number may not be known, and numbers begin again when a cluster is set up anew, while
a name is used once.
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
"""The states that a job ends in. In every other one it waits, runs, or is about to do so again."""

MAY_COME_BACK = ("BOOT_FAIL", "NODE_FAIL", "PREEMPTED")
"""Ends after which Slurm puts a job back into the queue by itself, a moment later."""

OF_THE_CODE = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGSYS, signal.SIGTRAP)
"""Signals by which a process ends itself: it would do so again."""

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

    `id` is `1234` or `1234_5`; an array's tasks share its name. `node` may be several, as in `n[1-3]`. `exit_status` is the
    batch script's, `exit_signal` what killed it or one of its steps; zero where that is not so or not known.
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
        """An array's task has an index."""
        _, _, index = self.id.partition("_")
        return int(index) if index else None

    @property
    def base_state(self) -> str:
        """`CANCELLED by 0` says who did it."""
        return self.state.split()[0]

    @property
    def has_ended(self) -> bool:
        return self.base_state in _CAUSES

    @property
    def is_held(self) -> bool:
        """Whether Slurm keeps it back after it could not be started; it waits for ever until it is released."""
        return self.base_state == "PENDING" and "requeued_held" in self.reason.replace(" ", "_")

    @property
    def cause(self) -> Cause:
        """Why it ended."""
        if self.base_state == "FAILED" and self.exit_signal == signal.SIGUSR2:
            return "preempted"  # it was told so before its Python listened
        if self.base_state == "FAILED" and self.signal_name and self.exit_signal not in OF_THE_CODE:
            return "killed"
        return _CAUSES[self.base_state]

    @property
    def signal_name(self) -> str:
        try:
            return signal.Signals(self.exit_signal).name if self.exit_signal else ""
        except ValueError:
            return f"signal {self.exit_signal}"

    @property
    def text(self) -> str:
        """How it ended, for people."""
        how = self.state
        if self.base_state == "FAILED":
            how += f", {self.signal_name}" if self.signal_name else f", exit status {self.exit_status}"
        return f"was ended by Slurm: {how} ({self.place})"

    @property
    def place(self) -> str:
        return f"Slurm job {self.id}" + (f" on node {self.node}" if self.node else "")


def squeue(commands: SlurmCommands) -> list[SlurmJob]:
    """All jobs of this user that the controller knows: those that wait and run, and for some minutes those that ended.

    Raises:
        SlurmAwayError: Slurm did not answer.
        SlurmRefusedError: Slurm will not.
    """
    return parse_squeue(commands.run(_SQUEUE))


def parse_squeue(text: str) -> list[SlurmJob]:
    jobs = []
    for line in text.splitlines():
        if line.count("|") < 6:
            continue
        ids, state, node, exit_code, reason, name = line.removesuffix("|").split("|", 5)
        status, number = _exit_status(*divmod(int(exit_code), 256)) if exit_code.isdigit() else (0, 0)  # as wait(2) has it
        for one in task_ids(ids):
            jobs.append(
                SlurmJob(
                    id=one,
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
    """The jobs of these names in the accounting database.

    Args:
        since: Unix time of the oldest submission; clocks may differ by a day.

    Raises:
        SlurmAwayError: the database did not answer.
        SlurmRefusedError: there is none, or it will not.
    """
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since - _DAY_S))
    return parse_sacct(commands.run((*_SACCT, f"--name={','.join(names)}", f"--starttime={start}")))


def parse_sacct(text: str) -> list[SlurmJob]:
    """Jobs, with what their steps say of the end: a batch script's status comes without the 128 that tells of a signal."""
    jobs: dict[str, SlurmJob] = {}
    for line in text.splitlines():
        if line.count("|") < 4:
            continue
        ids, state, exit_code, node, name = line.strip().split("|", 4)
        job_id, _, step = ids.partition(".")
        status, number = _exit_status(*(int(part or 0) for part in exit_code.partition(":")[::2]))
        if not step:
            for one in task_ids(ids):
                jobs[one] = SlurmJob(
                    id=one, name=name, state=state, node=_node(node), exit_status=status, exit_signal=number
                )
        elif job_id in jobs and jobs[job_id].base_state == "FAILED":  # steps come after their job
            if state.startswith("OUT_OF_ME"):
                jobs[job_id] = replace(jobs[job_id], state="OUT_OF_MEMORY")
            elif number:
                jobs[job_id] = replace(jobs[job_id], exit_signal=number)
    return list(jobs.values())


def task_ids(text: str) -> Iterator[str]:
    """The ids that `1234`, `1234_5`, `1234_[4-7,9]`, `1234_[0-8:4%2]` stand for; none where it cannot be read."""
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
    """Status and signal of a batch script; srun gives 128 more for a task that a signal killed, as shells do."""
    return (status, status - 128) if number == 0 and status > 128 else (status, number)
