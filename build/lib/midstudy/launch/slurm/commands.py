"""Slurm's commands: arguments in, text out, with a deadline on each. All that is asked of Slurm goes through here."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from midstudy.environment import existing_folder, of_slurm_command

NEEDED = ("sbatch", "squeue", "scancel", "scontrol")
"""Without these there is no Slurm. `sacct` is asked as well, but a cluster may do without accounting."""

TIMEOUT_S = 30.0
"""Slurm's own commands wait 10 s for a message and try a few times before they give up (MessageTimeout)."""

# What the commands print when the controller, or the database behind sacct, was not reached or did not answer in time. The
# request may have got through: only the answer is known to be missing.
_NO_ANSWER = (
    "Unable to contact slurm",
    "Unable to connect",
    "Connection refused",
    "Connection timed out",
    "Socket timed out",
    "Zero Bytes were transmitted",
    "Transport endpoint is not connected",
    "Unexpected message received",
    "Unable to establish controller",
    "Slurm backup controller in standby mode",
    "Problem talking to the database",
    "Sending PersistInit msg",
    "slurm_persist_conn_open",
    "Protocol authentication error",
    "Unspecified error",
)


class SlurmAwayError(RuntimeError):
    """Slurm did not answer, or not in time. Nothing is known; what was asked for may have been done."""


class SlurmRefusedError(RuntimeError):
    """Slurm answered that it will not; the message is its own."""


class SlurmCommands:
    """Runs Slurm's commands on this machine."""

    def require(self, store_root: Path) -> None:
        """Check that Slurm can be used from here, with a store at `store_root`.

        Raises:
            ValueError: a command is missing, or Slurm and submitit would read the store's path as something else.
        """
        if odd := [sign for sign in ("%", "\\", "\n") if sign in str(store_root)]:
            raise ValueError(f"--store: found {str(store_root)!r}; allowed with Slurm: a path without {odd[0]!r}.")
        missing = [name for name in NEEDED if shutil.which(name) is None]
        if missing:
            raise ValueError(
                f"--backend slurm: {', '.join(missing)} cannot be found on the PATH. Run this on a machine that submits to "
                "the cluster (a login node), install Slurm's commands (Debian: slurm-client), or use --backend local."
            )

    def run(self, command: Sequence[str], *, timeout_s: float = TIMEOUT_S) -> str:
        """What a command prints.

        Raises:
            SlurmAwayError: it did not answer within `timeout_s`, or said that Slurm did not.
            SlurmRefusedError: it failed for another reason.
        """
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=of_slurm_command(),
                cwd=existing_folder(),
                start_new_session=True,  # Ctrl-C is for the driver, which then still has commands to give
            )
        except FileNotFoundError:
            raise SlurmAwayError(f"{command[0]}: no such command on the PATH") from None
        try:
            output, error = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise SlurmAwayError(f"{command[0]}: no answer within {timeout_s:.0f} s") from None
        said = " ".join(error.split()) or f"ended with exit status {process.returncode}"
        if any(sign in error for sign in _NO_ANSWER) and (process.returncode or not output):
            raise SlurmAwayError(f"{command[0]}: {said}")
        if process.returncode:
            raise SlurmRefusedError(f"{command[0]}: {said}")
        return output
