"""Run a study's driver as a Slurm job: start `midstudy`, forward signals to it, and requeue this job as other jobs do.

    python -m midstudy.launch.driver_job ARGUMENTS...

At its time limit or on preemption, the driver exits and its jobs keep running; once restarted, it finds them again.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from types import FrameType

from midstudy.environment import of_child
from midstudy.launch.slurm.job import requeue
from midstudy.launch.stop import STOP_SIGNALS


def main(arguments: list[str]) -> int:
    """Run `midstudy ARGUMENTS`; return its exit status, as 128 + signal if a signal killed it."""
    received: list[int] = []
    # Its own session, so that Slurm's signals reach it only through this process.
    command = [sys.executable, "-m", "midstudy.cli.main", *arguments]
    with subprocess.Popen(command, env=of_child(), start_new_session=True) as driver:

        def forward(number: int, frame: FrameType | None) -> None:
            received.append(number)
            driver.send_signal(signal.SIGTERM)  # the driver detaches from its jobs

        for number in STOP_SIGNALS:
            signal.signal(number, forward)
        status = driver.wait()
    if received and requeue(received):
        print("requeued", flush=True)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
