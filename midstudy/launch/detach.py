"""Run a study's driver in the background: in its own session on this machine, or as a small Slurm job.

studies/NAME/driver.json identifies it, studies/NAME/driver.log holds its output.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import submitit

from midstudy.environment import of_child
from midstudy.files.atomic import write_json
from midstudy.files.reading import read_as
from midstudy.launch import clock
from midstudy.launch.process import Process
from midstudy.launch.slurm.commands import SlurmCommands, SlurmRefusedError
from midstudy.launch.slurm.executor import job_number, sbatch_parameters
from midstudy.launch.slurm.placement_file import Resources
from midstudy.launch.slurm.queue import squeue
from midstudy.store.store import Store

SIGNAL_S = 60
"""How long before its time limit the driver's job is signalled. It exits at once."""

_GONE_WITHIN_S = 60.0
_POLL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class _Detached:
    """A detached driver: its process, or the name of its Slurm job."""

    process: Process | None = None
    slurm_job: str | None = None


class _DriverExecutor(submitit.SlurmExecutor):
    """Used only to write the batch script."""

    @classmethod
    def affinity(cls) -> int:
        return 2


def detach_here(store: Store, study: str, arguments: Sequence[str]) -> str:
    """Start `midstudy ARGUMENTS` in its own session; return its process and host, as text for the user.

    Raises:
        StoreError: the store cannot be written.
    """
    with store.paths.detached_log(study).open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "midstudy.cli.main", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=of_child(),  # cwd is inherited: arguments may be relative to it
            start_new_session=True,
        )
    process = Process.of(child.pid)
    assert process is not None  # cannot be None: the child has not been waited for
    _write(store, study, _Detached(process=process))
    return f"process {process.pid} on {process.host}"


def detach_to_slurm(
    store: Store, study: str, arguments: Sequence[str], resources: Resources, commands: SlurmCommands | None = None
) -> str:
    """Submit `midstudy ARGUMENTS` as a Slurm job with these resources; return its Slurm id, as text for the user.

    Raises:
        StoreError: the store cannot be written.
        SlurmAwayError: Slurm does not respond.
        SlurmRefusedError: Slurm refused the job.
    """
    commands = commands or SlurmCommands()
    folder, log = store.paths.study(study), store.paths.detached_log(study)
    name = f"midstudy-{study}-{uuid.uuid4().hex[:8]}"
    executor = _DriverExecutor(folder)
    parameters = sbatch_parameters(resources)
    parameters["additional_parameters"] |= {"output": str(log), "signal": f"B:USR2@{SIGNAL_S}"}
    executor.update_parameters(**parameters, job_name=name, comment=f"midstudy {study}: driver", setup=list(resources.setup))
    # Replaces the shell, which would not forward signals.
    command = "exec " + shlex.join([sys.executable, "-u", "-m", "midstudy.launch.driver_job", *arguments])
    script = folder / "driver.sh"
    script.write_text(executor._make_submission_file_text(command, ""), "utf-8")
    _write(store, study, _Detached(slurm_job=name))
    number = job_number(commands.run(("sbatch", "--parsable", str(script))))
    return f"Slurm job {number}"


def end_detached(store: Store, study: str, commands: SlurmCommands | None = None) -> str | None:
    """End the study's detached driver and wait until it is gone; return which one it was, None if there was none.

    A driver on this machine also cancels its jobs, as on Ctrl-C. A driver in a Slurm job leaves them to the caller.

    Raises:
        StoreError: driver.json is damaged.
        SlurmAwayError: Slurm does not respond.
    """
    path = store.paths.detached(study)
    try:
        known = read_as(path, _Detached, remedy="Remove it; the driver it named is not ended.")
    except FileNotFoundError:
        return None
    deadline = clock.monotonic() + _GONE_WITHIN_S
    if (process := known.process) is not None:
        if not process.is_here or not process.is_alive():
            return None
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGINT)
        while process.is_alive() and clock.monotonic() < deadline:
            clock.sleep(_POLL_S)
        return f"process {process.pid}"
    commands = commands or SlurmCommands()
    ended = None
    while listed := [job for job in squeue(commands) if job.name == known.slurm_job and not job.has_ended]:
        if ended is None:
            ended = f"Slurm job {listed[0].id}"
            with contextlib.suppress(SlurmRefusedError):
                commands.run(("scancel", listed[0].id))
        if clock.monotonic() > deadline:
            break
        clock.sleep(_POLL_S)
    return ended


def _write(store: Store, study: str, detached: _Detached) -> None:
    write_json(store.paths.detached(study), dataclasses.asdict(detached))
