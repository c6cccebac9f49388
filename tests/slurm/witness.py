"""A job that logs what happens to it, one line per event: Unix seconds, PID, number of requeues, event.

    python witness.py NUM_S LOG

It writes to LOG itself, so that events are logged even after its srun has gone. It has a child without signal handlers
(`sleep`), like any program that a job starts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple


class Seen(NamedTuple):
    """A line of the log."""

    time_s: float
    process: int
    num_requeues: int
    what: str


def seen(log: Path) -> list[Seen]:
    """Return what a witness has logged so far."""
    lines = log.read_text("utf-8").splitlines() if log.exists() else []
    fields = [line.split(" ", 3) for line in lines]
    return [Seen(float(time_s), int(process), int(requeues), what) for time_s, process, requeues, what in fields]


def main(num_s: float, log: Path) -> None:
    """Run for `num_s` seconds, ignoring signals, and log every event."""

    def note(what: str) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{time.time():.2f} {os.getpid()} {os.environ.get('SLURM_RESTART_COUNT', '0')} {what}\n")

    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, lambda number, frame: note(signal.Signals(number).name))
    child = subprocess.Popen(["sleep", str(num_s)])
    note("start")
    end = time.monotonic() + num_s
    while time.monotonic() < end:
        time.sleep(0.2)
        note("alive" if child.poll() is None else f"child {child.returncode}")
    note("end")


if __name__ == "__main__":
    main(float(sys.argv[1]), Path(sys.argv[2]))
