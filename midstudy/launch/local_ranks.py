"""Start the ranks of a job on this machine, as `srun` does on a cluster: one submitit job process per rank.

    python -m midstudy.launch.local_ranks NUM_RANKS COMMAND...

This process leads the job's session and only waits. The first rank writes to this process's output, the others to submitit's
log files beside it. When a rank exits, the others get a grace period to notice and report it, and are then killed.
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
"""How long the other ranks may keep running once one has exited."""


def main(arguments: list[str]) -> int:
    """Run the ranks; return the exit status of the first that failed, in a shell's convention (128 + signal), else 0."""
    num_ranks, command = int(arguments[0]), arguments[1:]
    ranks: list[subprocess.Popen[bytes]] = []

    def forward(number: int, frame: object) -> None:
        for process in ranks:
            process.send_signal(number)

    for number in STOP_SIGNALS:
        signal.signal(number, forward)
    for rank in range(num_ranks):
        ranks.append(_start(rank, num_ranks, command))
    failed = 0
    deadline = None
    while any(process.poll() is None for process in ranks):
        for process in ranks:
            failed = failed or process.returncode or 0
        if deadline is None and any(process.returncode is not None for process in ranks):
            deadline = time.monotonic() + GRACE_S
        if deadline is not None and time.monotonic() > deadline:
            for process in ranks:
                process.kill()
        time.sleep(0.05)
    for process in ranks:
        failed = failed or process.returncode
    return failed if failed >= 0 else 128 - failed


def _start(rank: int, num_ranks: int, command: list[str]) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,  # this process already has the job's environment
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
    """Have the kernel kill this rank when its leader dies, since the job is then restarted elsewhere (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
