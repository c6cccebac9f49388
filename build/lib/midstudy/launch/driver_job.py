"""The driver of a study as a Slurm job: runs `midstudy`, hands signals on to it, and goes back into the queue as jobs do.

    python -m midstudy.launch.driver_job ARGUMENTS...

Told of its time limit or of preemption, the driver leaves its jobs alone; started again, it finds them.
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
    """Run `midstudy ARGUMENTS`; returns its exit status."""
    told: list[int] = []
    # In a session of its own, so that Slurm's signals reach it through here alone.
    command = [sys.executable, "-m", "midstudy.cli.main", *arguments]
    with subprocess.Popen(command, env=of_child(), start_new_session=True) as driver:

        def pass_on(number: int, frame: FrameType | None) -> None:
            told.append(number)
            driver.send_signal(signal.SIGTERM)  # jobs go on

        for number in STOP_SIGNALS:
            signal.signal(number, pass_on)
        status = driver.wait()
    if told and requeue(told):
        print("put back into the queue", flush=True)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
