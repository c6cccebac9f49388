"""submitit's Slurm executor with each job's files in the job's own folder of the store, also for the tasks of an array.

submitit moves a job's pickle to where the job looks for it once it knows the job's number. A driver that dies in between
leaves a job that waits a minute for it and fails. Here the pickle is written first, under a name without the number, and the
batch script links it.
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
"""How long before the time limit a job is told. Slurm may be a minute early."""

_WAIT_S = 30
"""How long the ranks may go on once one of them has ended: time to notice it and to say so."""


def sbatch_parameters(resources: Resources) -> dict[str, Any]:
    """What submitit is told of a job's resources, in its words."""
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
        "use_srun": False,  # the commands name srun themselves: submitit would quote the variables in its arguments
        "stderr_to_stdout": True,
        "additional_parameters": {"requeue": True, **dict(resources.sbatch)},
    }
    return {name: value for name, value in wanted.items() if value is not None}


def job_number(answer: str) -> str:
    """What `sbatch --parsable` answered: a number; a cluster's name may follow.

    Raises:
        SlurmAwayError: the answer cannot be read, so that nobody knows whether there is a job.
    """
    number = answer.strip().partition(";")[0]
    if not number.isdigit():
        raise SlurmAwayError(f"sbatch: answered {answer.strip()!r}")
    return number


class StoreExecutor(submitit.SlurmExecutor):
    """Submits one job, or several as one array.

    Args:
        folders: submitit's folder of each job.
        name: under which Slurm lists it.
        comment: what a person reads in `squeue --format=%k`.
    """

    def __init__(
        self, folders: Sequence[Path], place: JobPlacement, *, name: str, comment: str, commands: SlurmCommands
    ) -> None:
        super().__init__(folders[0])
        self._folders, self._place, self._commands = tuple(folders), place, commands
        parameters = sbatch_parameters(place.resources)
        # The script sends its output to the job's log itself, because an array's tasks have folders of their own.
        parameters["additional_parameters"]["output"] = "/dev/null"
        self.update_parameters(
            **parameters, job_name=name, comment=comment, ntasks_per_node=place.ranks_per_node, setup=self._setup()
        )
        if len(folders) > 1:
            self.parameters |= {"map_count": len(folders), "array_parallelism": len(folders)}

    @classmethod
    def affinity(cls) -> int:
        return 2  # whether Slurm is there is asked elsewhere, and answered in more words

    def _setup(self) -> list[str]:
        """The batch script's first lines: which job this is, its log and its pickle; then the placement file's own."""
        from midstudy.train.environment import ALLOCATOR

        return [
            f"folders=({' '.join(shlex.quote(str(folder)) for folder in self._folders)})",
            'folder="${folders[${SLURM_ARRAY_TASK_ID:-0}]}"',
            'id="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}}"',
            'id="${id:-$SLURM_JOB_ID}"',
            'exec >>"$folder/${id}_0_log.out" 2>&1',
            f'ln -sf {PICKLE} "$folder/${{id}}_submitted.pkl"',
            'rm -f "$folder"/*.save_tmp',  # what a killed start left; submitit would refuse to write its result
            *of_slurm_job(num_threads=self._place.compute.num_threads, **ALLOCATOR),
            *self._place.resources.setup,  # run in the folder the job was submitted from
            'cd "$folder"',
        ]

    @property
    def _submitit_command_str(self) -> str:
        srun = [
            "srun",
            "--unbuffered",
            "--open-mode=append",
            "--kill-on-bad-exit=0",  # a rank that ends is noticed by the others, which then say so and end ...
            f"--wait={_WAIT_S}",  # ... or are ended
            f"--cpus-per-task={self._place.resources.cpus_per_task}",  # from Slurm 22.05 on not taken from sbatch
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
            submitit.SlurmJob(folder=folder, job_id=one, tasks=tasks) for folder, one in zip(self._folders, ids, strict=True)
        ]
