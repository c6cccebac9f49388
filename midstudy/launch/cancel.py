"""Cancel a study from another process: interrupt its drivers, then end the jobs that are left."""

from __future__ import annotations

import contextlib
import os
import signal

from midstudy.launch import clock
from midstudy.launch.backends import by_backend, launcher_of, live_jobs
from midstudy.launch.heartbeat import request_cancel
from midstudy.launch.job_file import Job, write_end
from midstudy.launch.process import Process, this_process
from midstudy.store.store import Store

_POLL_S = 0.1


def cancel_study(store: Store, study: str, *, driver_timeout_s: float = 15.0) -> list[Job]:
    """Cancel the running jobs of a study and return them; finished stages are kept, the others can be resumed.

    All drivers of the study are asked to end, on any host, so that they submit no more jobs. A driver on this host also gets
    SIGINT, as on Ctrl-C, and `driver_timeout_s` to end its jobs. Jobs that are still running after that are ended here.

    Raises:
        StoreError: the store cannot be written, or a job's file is damaged.
    """
    jobs = _running(store, study)
    for driver in {job.driver for job in jobs}:
        request_cancel(store, driver, study)
        _interrupt(driver)
    deadline = clock.monotonic() + driver_timeout_s
    while (left := _running(store, study)) and clock.monotonic() < deadline:
        if not any(job.driver.is_here and job.driver.is_alive() for job in left):
            break
        clock.sleep(_POLL_S)
    for backend, group in by_backend(left).items():
        launcher_of(backend, store).cancel(group)
    for job in left:
        write_end(store, job.name, "stopped")
    return jobs


def _running(store: Store, study: str) -> list[Job]:
    return [job for job in live_jobs(store) if job.study == study]


def _interrupt(driver: Process) -> None:
    if driver.is_here and driver.is_alive() and driver != this_process():
        with contextlib.suppress(ProcessLookupError):
            os.kill(driver.pid, signal.SIGINT)
