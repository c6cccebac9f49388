"""Code that runs inside a Slurm job: get the job's id, requeue the job.

Slurm requeues a job automatically only if it had to kill it. A job that was signalled in time, saved its work and exited
would count as completed. The job therefore requests its own requeue before it exits, which needs no running driver.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence

from midstudy.launch.slurm.commands import SlurmAwayError, SlurmCommands, SlurmRefusedError


def this_slurm_job() -> str | None:
    """Return the id of the Slurm job that submitit runs this process in, `1234` or `1234_5`; None outside Slurm."""
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return None
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def requeue(received: Sequence[int], commands: SlurmCommands | None = None) -> bool:
    """Requeue this job if the signal asked for it; return whether it did.

    Slurm sends SIGUSR2 before preemption and the time limit. SIGTERM means that the job is cancelled, but is also the only
    signal of a preemption on most clusters: Slurm then lists the job as running, with a preemption time.

    Args:
        received: numbers of the signals received.
        commands: runs Slurm's commands.
    """
    commands = commands or SlurmCommands()
    job_id = os.environ["SLURM_JOB_ID"]
    try:
        if signal.SIGUSR2 not in received and not _is_preempted(
            commands.run(("scontrol", "show", "job", "--oneliner", job_id))
        ):
            return False
        commands.run(("scontrol", "requeue", job_id))
    except (SlurmAwayError, SlurmRefusedError) as error:
        print(f"not requeued: {error}", flush=True)
        return False
    return True


def _is_preempted(text: str) -> bool:
    fields = dict(re.findall(r"(\w+)=(\S*)", text))
    return fields.get("JobState") == "RUNNING" and fields.get("PreemptTime", "None") not in ("None", "N/A", "Unknown")
