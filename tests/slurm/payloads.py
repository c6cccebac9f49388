"""What submitit's jobs run in the tests of what submitit does: importable by name in the job."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from submitit.helpers import DelayedSubmission


def variable(name: str) -> str | None:
    """The value of an environment variable, in the job."""
    return os.environ.get(name)


def wait(num_s: float) -> str:
    """Says that it waits, and after a while which task it was."""
    print("waiting", flush=True)
    time.sleep(num_s)
    return f"task {os.environ['SLURM_PROCID']}"


def first_waits_others_fail(num_s: float) -> None:
    """One rank of several dies."""
    if os.environ["SLURM_PROCID"] != "0":
        raise ValueError("boom")
    time.sleep(num_s)


class Loading:
    """Reads from a torch DataLoader for half a minute, and writes down which processes there are and which are told what."""

    def __init__(self, log: Path, *, num_workers: int) -> None:
        self.log, self.num_workers = log, num_workers

    def __call__(self) -> None:
        from torch.utils.data import DataLoader

        self._write("main")
        items: Any = range(600)  # torch takes any sequence, and its types do not say so
        for _ in DataLoader(items, batch_size=None, num_workers=self.num_workers, worker_init_fn=self._begin_worker):
            time.sleep(0.05)

    def checkpoint(self) -> DelayedSubmission:
        """What submitit calls when it is told by a signal."""
        self._write("checkpoint")
        return DelayedSubmission(self)

    def _begin_worker(self, number: int) -> None:
        self._write("worker")

    def _write(self, what: str) -> None:
        with self.log.open("a") as file:
            file.write(f"{what} {os.getpid()}\n")
