"""Starts the ranks of a job on this machine, as `srun` does on a cluster: submitit's job process once a rank.

    python -m midstudy.launch.local_ranks NUM_RANKS COMMAND...

This process leads the job's session and does nothing but wait. The first rank writes to this process's output, the others
to submitit's log files beside it. A rank that ends ends the others, after they had time to notice and to say so.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from submitit.core.utils import JobPaths

from midstudy.launch.stop import STOP_SIGNALS

_PR_SET_PDEATHSIG = 1
GRACE_S = 30.0
"""How long the ranks may go on once one of them has ended."""


def main(arguments: list[str]) -> int:
    """Run the ranks; returns the exit status of the first that failed, as a shell would give it, else 0."""
    num_ranks, command = int(arguments[0]), arguments[1:]
    ranks: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: object) -> None:
        for one in ranks:
            one.send_signal(number)

    for number in STOP_SIGNALS:
        signal.signal(number, pass_on)
    for rank in range(num_ranks):
        ranks.append(_start(rank, num_ranks, command))
    failed = 0
    deadline = None
    while any(one.poll() is None for one in ranks):
        for one in ranks:
            failed = failed or one.returncode or 0
        if deadline is None and any(one.returncode is not None for one in ranks):
            deadline = time.monotonic() + GRACE_S
        if deadline is not None and time.monotonic() > deadline:
            for one in ranks:
                one.kill()
        time.sleep(0.05)
    for one in ranks:
        failed = failed or one.returncode
    return failed if failed >= 0 else 128 - failed


def _start(rank: int, num_ranks: int, command: list[str]) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,  # already a job's environment: this process leads the job's ranks
        "SUBMITIT_LOCAL_NTASKS": str(num_ranks),
        "SUBMITIT_LOCAL_GLOBALID": str(rank),
        "SUBMITIT_LOCAL_LOCALID": str(rank),
    }
    if rank == 0:
        return subprocess.Popen(command, env=environment, preexec_fn=_die_with_leader)
    log = JobPaths(Path(command[-1]), job_id=os.environ["SUBMITIT_LOCAL_JOB_ID"], task_id=rank).stdout
    with log.open("ab") as output:
        return subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, preexec_fn=_die_with_leader
        )


def _die_with_leader() -> None:
    """Let the kernel end a rank whose leader was killed: the job is then taken as gone, and started anew (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
