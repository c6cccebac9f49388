"""Inside a Slurm job: which one it is, and how it puts itself back into the queue.

Slurm requeues a job by itself only where it had to kill it. One that was told in time, saved its work and ended would count
as completed. So the job asks to be requeued before it ends, and no driver needs to be there.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence

from midstudy.launch.slurm.commands import SlurmAwayError, SlurmCommands, SlurmRefusedError


def this_slurm_job() -> str | None:
    """The id of the Slurm job that submitit runs this process in, `1234` or `1234_5`; none elsewhere."""
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return None
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def requeue(told: Sequence[int], commands: SlurmCommands | None = None) -> bool:
    """Put this job back into the queue, if that is what it was told to stop for; whether it was.

    SIGUSR2 comes before preemption and the time limit. SIGTERM comes from whoever cancels the job, but is also all that
    preemption sends on most clusters: then Slurm lists the job as running, with the time of its preemption.

    Args:
        told: the signals that came.
    """
    commands = commands or SlurmCommands()
    job_id = os.environ["SLURM_JOB_ID"]
    try:
        if signal.SIGUSR2 not in told and not _is_preempted(commands.run(("scontrol", "show", "job", "--oneliner", job_id))):
            return False
        commands.run(("scontrol", "requeue", job_id))
    except (SlurmAwayError, SlurmRefusedError) as error:
        print(f"not put back into the queue: {error}", flush=True)
        return False
    return True


def _is_preempted(text: str) -> bool:
    fields = dict(re.findall(r"(\w+)=(\S*)", text))
    return fields.get("JobState") == "RUNNING" and fields.get("PreemptTime", "None") not in ("None", "N/A", "Unknown")
