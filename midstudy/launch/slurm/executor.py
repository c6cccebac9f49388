"""submitit's Slurm executor, changed so that each job's files are in the job's own folder of the store, even in an array.

submitit moves a job's pickle to its final path once it knows the job's id. If the driver dies in between, the job waits a
minute for the pickle and fails. Here the pickle is written first, under a name without the id, and the batch script links
to it.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import DelayedSubmission

from midstudy.environment import of_slurm_job
from midstudy.launch.slurm.commands import SlurmAwayError, SlurmCommands
from midstudy.launch.slurm.placement_file import JobPlacement, Resources

PICKLE = "submitted.pkl"
SCRIPT = "submission.sh"
SIGNAL_S = 90
"""How long before the time limit a job is signalled. Slurm may send the signal up to a minute early."""

_WAIT_S = 30
"""How long the other ranks may keep running once one has exited, to notice and report it."""


def sbatch_parameters(resources: Resources) -> dict[str, Any]:
    """Return the parameters of submitit's Slurm executor for these resources."""
    wanted = {
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "nodes": resources.nodes,
        "cpus_per_task": resources.cpus_per_task,
        "gpus_per_node": resources.gpus_per_node or None,
        "mem": None if resources.memory_gb is None else f"{round(resources.memory_gb * 1024)}M",
        "time": resources.time_limit_min,
        "signal_delay_s": min(SIGNAL_S, 20 * resources.time_limit_min),
        "use_srun": False,  # the command calls srun itself: submitit would quote the variables in srun's arguments
        "stderr_to_stdout": True,
        "additional_parameters": {"requeue": True, **dict(resources.sbatch)},
    }
    return {name: value for name, value in wanted.items() if value is not None}


def job_number(answer: str) -> str:
    """Parse the output of `sbatch --parsable`, `ID` or `ID;CLUSTER`, and return the id.

    Raises:
        SlurmAwayError: the output cannot be parsed, so that it is unknown whether a job was submitted.
    """
    number = answer.strip().partition(";")[0]
    if not number.isdigit():
        raise SlurmAwayError(f"sbatch: expected a job id, got {answer.strip()!r}")
    return number


class StoreExecutor(submitit.SlurmExecutor):
    """Submit one job, or several as one array.

    Args:
        folders: submitit's folder of each job.
        place: the jobs' resources and compute placement.
        name: the jobs' name in Slurm.
        comment: the jobs' comment in Slurm, shown by `squeue --format=%k`.
        commands: runs Slurm's commands.
    """

    def __init__(
        self, folders: Sequence[Path], place: JobPlacement, *, name: str, comment: str, commands: SlurmCommands
    ) -> None:
        super().__init__(folders[0])
        self._folders, self._place, self._commands = tuple(folders), place, commands
        parameters = sbatch_parameters(place.resources)
        # The script redirects its own output to the job's log, because each task of an array has its own folder.
        parameters["additional_parameters"]["output"] = "/dev/null"
        self.update_parameters(
            **parameters, job_name=name, comment=comment, ntasks_per_node=place.ranks_per_node, setup=self._setup()
        )
        if len(folders) > 1:
            self.parameters |= {"map_count": len(folders), "array_parallelism": len(folders)}

    @classmethod
    def affinity(cls) -> int:
        return 2  # availability is checked by `SlurmCommands.require`, with a better message

    def _setup(self) -> list[str]:
        """Return the batch script's first lines: the job's folder, log and pickle, then the placement file's `setup`."""
        from midstudy.train.environment import ALLOCATOR

        return [
            f"folders=({' '.join(shlex.quote(str(folder)) for folder in self._folders)})",
            'folder="${folders[${SLURM_ARRAY_TASK_ID:-0}]}"',
            'id="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}}"',
            'id="${id:-$SLURM_JOB_ID}"',
            'exec >>"$folder/${id}_0_log.out" 2>&1',
            f'ln -sf {PICKLE} "$folder/${{id}}_submitted.pkl"',
            'rm -f "$folder"/*.save_tmp',  # left by a killed start; submitit would refuse to write its result
            *of_slurm_job(num_threads=self._place.compute.num_threads, **ALLOCATOR),
            *self._place.resources.setup,  # runs in the folder the job was submitted from
            'cd "$folder"',
        ]

    @property
    def _submitit_command_str(self) -> str:
        srun = [
            "srun",
            "--unbuffered",
            "--open-mode=append",
            "--kill-on-bad-exit=0",  # the other ranks notice that a rank has exited, report it and exit ...
            f"--wait={_WAIT_S}",  # ... or are killed
            f"--cpus-per-task={self._place.resources.cpus_per_task}",  # since Slurm 22.05 not inherited from sbatch
        ]
        log = '--output="$folder/${id}_%t_log.out"'
        return f'{shlex.join(srun)} {log} {self.python} -u -m submitit.core._submit "$folder"'

    def _internal_process_submissions(self, delayed_submissions: list[DelayedSubmission]) -> list[submitit.Job[Any]]:
        for folder, delayed in zip(self._folders, delayed_submissions, strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            delayed.set_timeout(self.parameters["time"], self.max_num_timeout)
            delayed.dump(folder / PICKLE)
        script = self._folders[0] / SCRIPT
        script.write_text(self._make_submission_file_text(self._submitit_command_str, ""), "utf-8")
        number = job_number(self._commands.run(("sbatch", "--parsable", str(script))))
        ids = [number] if len(self._folders) == 1 else [f"{number}_{index}" for index in range(len(self._folders))]
        tasks = list(range(self._num_tasks()))
        return [
            submitit.SlurmJob(folder=folder, job_id=job_id, tasks=tasks)
            for folder, job_id in zip(self._folders, ids, strict=True)
        ]
