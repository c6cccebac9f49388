"""Functions that submitit jobs run in the tests of submitit's behaviour; importable by name in the job."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from submitit.helpers import DelayedSubmission


def variable(name: str) -> str | None:
    """Return the value of an environment variable in the job."""
    return os.environ.get(name)


def wait(num_s: float) -> str:
    """Print "waiting", sleep for `num_s` seconds, and return the task's rank."""
    print("waiting", flush=True)
    time.sleep(num_s)
    return f"task {os.environ['SLURM_PROCID']}"


def first_waits_others_fail(num_s: float) -> None:
    """Sleep on the first rank; raise on all others."""
    if os.environ["SLURM_PROCID"] != "0":
        raise ValueError("boom")
    time.sleep(num_s)


class Loading:
    """Read from a torch DataLoader for half a minute; log the PIDs of the main process, workers and checkpoint calls."""

    def __init__(self, log: Path, *, num_workers: int) -> None:
        self.log, self.num_workers = log, num_workers

    def __call__(self) -> None:
        from torch.utils.data import DataLoader

        self._write("main")
        items: Any = range(600)  # torch accepts any sequence, but its type hints do not
        for _ in DataLoader(items, batch_size=None, num_workers=self.num_workers, worker_init_fn=self._begin_worker):
            time.sleep(0.05)

    def checkpoint(self) -> DelayedSubmission:
        """Called by submitit on a signal."""
        self._write("checkpoint")
        return DelayedSubmission(self)

    def _begin_worker(self, number: int) -> None:
        self._write("worker")

    def _write(self, what: str) -> None:
        with self.log.open("a") as file:
            file.write(f"{what} {os.getpid()}\n")
