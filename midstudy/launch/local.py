"""Local backend: run jobs as processes of this machine, through submitit.

submitit's local executor puts a second process, which times out after two minutes, between the driver and the job, and
keeps both in the driver's session. Here the job is only submitit's own job process, in its own session: it outlives the
driver, all of its processes can be killed together, and its exit status is visible.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.local.local import LocalJob

from midstudy.environment import of_job
from midstudy.files.errors import StoreError, unwritable
from midstudy.launch import clock
from midstudy.launch.job import run_job
from midstudy.launch.job_file import EXECUTE_STAGE, Job, job_end, job_process, mark_cancelled, write_process
from midstudy.launch.launcher import Exit, Refusal
from midstudy.launch.process import Process
from midstudy.recipe.stage import Stage
from midstudy.store.store import Store
from midstudy.train.placement import Placement

_POLL_S = 0.05
_KILLED_WITHIN_S = 5.0
"""A process that SIGKILL does not end within this time hangs in the kernel and is left alone."""
_CRASH_SIGNALS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGSYS, signal.SIGTRAP)
"""Signals that a process's own fault raises. It would crash again, so its stage is not retried."""


class SessionExecutor(submitit.LocalExecutor):
    """Start submitit's job process directly, in its own session, with the job's name as its submitit id.

    With several ranks, the session is led by a process that starts one job process per rank.

    Args:
        folder: submitit's folder of this job.
    """

    def __init__(self, folder: Path, *, job_id: str, num_ranks: int, environment: Mapping[str, str]) -> None:
        super().__init__(folder)
        self._job_id, self._num_ranks, self._environment = job_id, num_ranks, environment
        self.process: subprocess.Popen[bytes] | None = None

    def _internal_process_submissions(self, delayed_submissions: list[DelayedSubmission]) -> list[submitit.Job[Any]]:
        """Write the pickle to where the job reads it before starting the process.

        submitit moves it there afterwards; a driver killed in between would leave a process that waits a minute for it.
        """
        (delayed,) = delayed_submissions
        paths = JobPaths(self.folder, job_id=self._job_id)
        paths.folder.mkdir(parents=True, exist_ok=True)
        delayed.dump(paths.submitted_pickle)
        return [self._submit_command(self._submitit_command_str)]

    def _submit_command(self, command: str) -> LocalJob:
        log = JobPaths(self.folder, job_id=self._job_id).stdout
        environment = {
            **self._environment,
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_JOB_ID": self._job_id,
            "SUBMITIT_LOCAL_NTASKS": "1",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_GLOBALID": "0",
            "SUBMITIT_LOCAL_LOCALID": "0",
        }
        arguments = shlex.split(command)
        if self._num_ranks > 1:
            arguments = [sys.executable, "-m", "midstudy.launch.local_ranks", str(self._num_ranks), *arguments]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self.folder.parent,
                start_new_session=True,
            )
        return LocalJob(folder=self.folder, job_id=self._job_id, process=self.process)


class LocalLauncher:
    """Run each job as a process of this machine, or as one process per rank.

    Args:
        store: the store that holds the jobs' files.
        placement: compute placement of every job.
        gpus: values allowed in CUDA_VISIBLE_DEVICES; each job gets one least-used GPU per rank. If empty, the variable is
            left unchanged.
        entry: the function that executes one stage, as MODULE:FUNCTION.
        grace_s: how long a job that is asked to stop may take to save its work before it is killed. Most jobs take a
            second; a step or a checkpoint of a large model takes longer.
    """

    backend = "local"
    calls_block = False

    def __init__(
        self,
        store: Store,
        *,
        placement: Placement | None = None,
        gpus: Sequence[str] = (),
        entry: str = EXECUTE_STAGE,
        grace_s: float = 60.0,
    ) -> None:
        self._store, self._grace_s, self._gpus = store, grace_s, tuple(gpus)
        self._placement, self.entry = placement or Placement(), entry
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._gpus_of: dict[str, tuple[str, ...]] = {}

    def placement_for(self, stages: Sequence[Stage]) -> Placement:
        return self._placement

    def pack_key(self, stage: Stage) -> Hashable:
        return None

    def submit(self, jobs: Sequence[Job]) -> dict[str, Refusal]:
        return {job.name: refusal for job in jobs if (refusal := self._start(job)) is not None}

    def _start(self, job: Job) -> Refusal | None:
        folder = self._store.paths.job_submitit(job.name)
        num_ranks = job.placement.num_ranks
        try:
            executor = SessionExecutor(folder, job_id=job.name, num_ranks=num_ranks, environment=self._environment(job))
            executor.submit(run_job, str(self._store.root), job.name)
        except OSError as error:
            refused = unwritable(folder, error)
            return Refusal(text=str(refused), may_pass=refused.may_pass)
        assert executor.process is not None
        self._children[job.name] = executor.process
        process = Process.of(executor.process.pid)
        assert process is not None  # /proc keeps its entry until it is waited for, even if it has ended
        with contextlib.suppress(StoreError):  # a later driver then finds it by its command line
            write_process(self._store, job.name, process)
        return None

    def poll(self, jobs: Sequence[Job]) -> dict[str, Exit]:
        ended = {}
        for job in jobs:
            if job.name in self._children:
                status = self._children[job.name].poll()
                if status is not None:
                    ended[job.name] = _exit_of(status)
            elif (process := job_process(self._store, job.name)) is None:
                ended[job.name] = Exit(text="was never started", cause="lost")
            elif not process.is_here:  # reached only once its driver's heartbeat is stale as well
                text = f"ran on {process.host}, where its driver became unresponsive"
                ended[job.name] = Exit(text=text, cause="node failed")
            elif not process.is_alive():
                # It is not a child of this process, so its exit status is unknown.
                if job_end(self._store, job.name) is not None:
                    ended[job.name] = Exit(text="ended", cause="exited")
                else:
                    ended[job.name] = Exit(text="exited without reporting a result, probably killed", cause="killed")
        return ended

    def live(self, jobs: Sequence[Job]) -> set[str]:
        processes = {job.name: job_process(self._store, job.name) for job in jobs}
        return {name for name, process in processes.items() if process is not None and process.is_alive()}

    def cancel(self, jobs: Sequence[Job]) -> None:
        processes = {}
        for job in jobs:
            mark_cancelled(self._store, job.name)
            process = job_process(self._store, job.name)
            if process is not None:
                processes[job.name] = process
        remaining = {name for name, process in processes.items() if process.signal_session(signal.SIGTERM)}
        deadline = clock.monotonic() + self._grace_s
        number = signal.SIGTERM
        while remaining and clock.monotonic() < deadline + _KILLED_WITHIN_S:
            if clock.monotonic() > deadline:
                number = signal.SIGKILL
            self._reap()
            # A signal gets lost if it arrives before Python and submitit have installed their handlers: send it again.
            remaining = {name for name in remaining if processes[name].signal_session(number)}
            clock.sleep(_POLL_S)

    def _reap(self) -> None:
        for child in self._children.values():
            child.poll()

    def _environment(self, job: Job) -> dict[str, str]:
        from midstudy.train.environment import ALLOCATOR

        environment = of_job(self._store.paths.job(job.name), num_threads=job.placement.num_threads, **ALLOCATOR)
        if self._gpus:
            running = [gpu for name, child in self._children.items() if child.poll() is None for gpu in self._gpus_of[name]]
            by_use = sorted(self._gpus, key=running.count)
            self._gpus_of[job.name] = tuple(by_use[: job.placement.num_ranks])
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self._gpus_of[job.name])
        return environment


def _exit_of(status: int) -> Exit:
    if status > 128:  # a rank was killed by a signal: 128 + signal, as in shells
        status = 128 - status
    if status < 0:
        number = signal.Signals(-status)
        hint = " (the kernel does so when memory runs out)" if number == signal.SIGKILL else ""
        return Exit(text=f"killed by {number.name}{hint}", cause="exited" if number in _CRASH_SIGNALS else "killed")
    return Exit(text=f"ended with exit status {status}", cause="exited")
