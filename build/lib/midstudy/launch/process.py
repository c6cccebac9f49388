"""Which process is which: a pid together with its start time, host and boot, so that a pid used again is no mistake.

A `LocalJob` that submitit rebuilds from its id says that it is done while it runs, and its `cancel` does nothing; what is
here is what a later driver knows a job by.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
# Fields of /proc/PID/stat after the command's name, which may hold spaces and parentheses (proc(5), numbered from 3).
_STATE, _SESSION, _START_TICKS = 3 - 3, 6 - 3, 22 - 3


@functools.cache
def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third on; none where there is no such process."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


@dataclass(frozen=True)
class Process:
    """A process of some host. `start_ticks` is its start in clock ticks since the boot `boot_id`."""

    pid: int
    start_ticks: int
    host: str
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this pid on this host now; none where there is none."""
        stat = _stat(pid)
        if stat is None:
            return None
        return cls(pid=pid, start_ticks=int(stat[_START_TICKS]), host=socket.gethostname(), boot_id=_boot_id())

    @property
    def key(self) -> str:
        """A name that no other process has."""
        return f"{self.host}-{self.pid}-{self.start_ticks}-{self.boot_id[:8]}"

    @property
    def is_here(self) -> bool:
        """Whether it belongs to this host, so that it can be looked at."""
        return self.host == socket.gethostname()

    def is_alive(self) -> bool:
        """Whether it runs still. Of another host's process that cannot be seen from here, and is taken to be so."""
        if not self.is_here:
            return True
        stat = _stat(self.pid)
        return (
            stat is not None
            and stat[_STATE] not in "ZX"
            and int(stat[_START_TICKS]) == self.start_ticks
            and self.boot_id == _boot_id()
        )

    def signal_session(self, number: signal.Signals) -> bool:
        """Send a signal to every process of the session that this process leads; false where none is left."""
        if not self.is_here or self.boot_id != _boot_id():
            return False
        leader = Process.of(self.pid)
        if leader is not None and leader != self:
            return False  # the pid was used again: the number is free only once the whole session is gone
        members = list(_session(self.pid))
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return bool(members)


def this_process() -> Process:
    process = Process.of(os.getpid())
    assert process is not None
    return process


def _session(leader_pid: int) -> Iterator[int]:
    """Pids of the processes of a session, zombies left out."""
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            stat = _stat(int(entry.name))
            if stat is not None and int(stat[_SESSION]) == leader_pid and stat[_STATE] not in "ZX":
                yield int(entry.name)


def find_by_argument(argument: str) -> Process | None:
    """The leader of a session of this host that was started with this argument on its command line."""
    wanted = os.fsencode(argument)
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                pid = int(entry.name)
                if wanted in (entry / "cmdline").read_bytes().split(b"\0") and os.getsid(pid) == pid:
                    return Process.of(pid)
    return None
