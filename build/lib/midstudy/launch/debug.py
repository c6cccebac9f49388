"""Jobs inside the driver's own process, one at a time: for breakpoints and profilers.

submitit's debug executor is not used: it opens the debugger on its own in every exception and swaps the whole environment.
"""

from __future__ import annotations

from midstudy.launch.job import run_job
from midstudy.launch.job_file import Job
from midstudy.launch.launcher import Refusal
from midstudy.launch.local import LocalLauncher


class DebugLauncher(LocalLauncher):
    """Runs each job before `submit` returns. The allocator's settings are those this process was started with.

    Jobs that an earlier driver left running are processes, and are followed and ended as such.
    """

    backend = "debug"

    def _start(self, job: Job) -> Refusal | None:
        from midstudy.train.environment import configure_threads

        assert job.placement.num_ranks == 1
        configure_threads(job.placement.num_threads)
        run_job(str(self._store.root), job.name)
        return None
