"""Process identity robust to PID reuse: PID, start time, host and boot id.

A later driver identifies a running job by it. submitit cannot: a `LocalJob` rebuilt from its id reports that it is done
while it still runs, and its `cancel` does nothing.
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
# Indices of the fields of /proc/PID/stat after the command's name, which may contain spaces and parentheses. proc(5) numbers
# them from 3.
_STATE, _SESSION, _START_TICKS = 3 - 3, 6 - 3, 22 - 3


@functools.cache
def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the third on; None if there is no such process."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


@dataclass(frozen=True)
class Process:
    """A process on some host. `start_ticks` is its start time in clock ticks since the boot `boot_id`."""

    pid: int
    start_ticks: int
    host: str
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """Return the process that has this PID on this host now; None if there is none."""
        stat = _stat(pid)
        if stat is None:
            return None
        return cls(pid=pid, start_ticks=int(stat[_START_TICKS]), host=socket.gethostname(), boot_id=_boot_id())

    @property
    def key(self) -> str:
        """A string that is unique to this process."""
        return f"{self.host}-{self.pid}-{self.start_ticks}-{self.boot_id[:8]}"

    @property
    def is_here(self) -> bool:
        """True if the process belongs to this host, so that it can be inspected."""
        return self.host == socket.gethostname()

    def is_alive(self) -> bool:
        """Return whether the process is running. A process of another host cannot be inspected and counts as running."""
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
        """Send a signal to every process of the session that this process leads; return False if no process is left."""
        if not self.is_here or self.boot_id != _boot_id():
            return False
        leader = Process.of(self.pid)
        if leader is not None and leader != self:
            return False  # the PID was reused, which is possible only once the whole session is gone
        members = list(_session(self.pid))
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return bool(members)


def this_process() -> Process:
    """Return the identity of the current process."""
    process = Process.of(os.getpid())
    assert process is not None
    return process


def _session(leader_pid: int) -> Iterator[int]:
    """Yield the PIDs of a session's processes, except zombies."""
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            stat = _stat(int(entry.name))
            if stat is not None and int(stat[_SESSION]) == leader_pid and stat[_STATE] not in "ZX":
                yield int(entry.name)


def find_by_argument(argument: str) -> Process | None:
    """Return the session leader on this host that has this argument on its command line; None if there is none."""
    wanted = os.fsencode(argument)
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                pid = int(entry.name)
                if wanted in (entry / "cmdline").read_bytes().split(b"\0") and os.getsid(pid) == pid:
                    return Process.of(pid)
    return None
