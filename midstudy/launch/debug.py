"""Debug backend: run jobs in the driver's own process, one at a time, for breakpoints and profilers.

submitit's debug executor is not used: it opens a debugger on every exception and replaces the whole environment.
"""

from __future__ import annotations

from midstudy.launch.job import run_job
from midstudy.launch.job_file import Job
from midstudy.launch.launcher import Refusal
from midstudy.launch.local import LocalLauncher


class DebugLauncher(LocalLauncher):
    """Run each job to its end inside `submit`. Memory allocator settings are those of this process.

    Jobs left running by an earlier driver are separate processes; they are followed and ended like local jobs.
    """

    backend = "debug"

    def _start(self, job: Job) -> Refusal | None:
        from midstudy.train.environment import configure_threads

        assert job.placement.num_ranks == 1
        configure_threads(job.placement.num_threads)
        run_job(str(self._store.root), job.name)
        return None
