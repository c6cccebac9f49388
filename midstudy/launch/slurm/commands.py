"""Run Slurm's commands: arguments in, text out, each with a timeout. All requests to Slurm go through this module."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from midstudy.environment import existing_folder, of_slurm_command

NEEDED = ("sbatch", "squeue", "scancel", "scontrol")
"""Required commands. `sacct` is used as well, but a cluster may not have accounting."""

TIMEOUT_S = 30.0
"""Slurm's commands wait 10 s per message (MessageTimeout) and retry a few times before they give up."""

# Printed by the commands if the controller, or the database behind sacct, was unreachable or did not respond in time. The
# request may still have been received: only the response is known to be missing.
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
    """Slurm did not respond in time. The outcome is unknown: the request may have been carried out."""


class SlurmRefusedError(RuntimeError):
    """Slurm refused the request; the message is Slurm's."""


class SlurmCommands:
    """Runs Slurm's commands on this machine."""

    def require(self, store_root: Path) -> None:
        """Check that Slurm can be used from this machine, with a store at `store_root`.

        Raises:
            ValueError: a command is missing, or the store's path has a character that Slurm or submitit would interpret.
        """
        if odd := [sign for sign in ("%", "\\", "\n") if sign in str(store_root)]:
            raise ValueError(f"--store: with Slurm, expected a path without {odd[0]!r}, got {str(store_root)!r}.")
        missing = [name for name in NEEDED if shutil.which(name) is None]
        if missing:
            raise ValueError(
                f"--backend slurm: {', '.join(missing)} not found on the PATH. Run this on a machine that submits to "
                "the cluster (a login node), install Slurm's commands (Debian: slurm-client), or use --backend local."
            )

    def run(self, command: Sequence[str], *, timeout_s: float = TIMEOUT_S) -> str:
        """Run a command and return its standard output.

        Raises:
            SlurmAwayError: it did not finish within `timeout_s`, or reported that Slurm did not respond.
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
                start_new_session=True,  # Ctrl-C must reach only the driver, which still needs to run commands
            )
        except FileNotFoundError:
            raise SlurmAwayError(f"{command[0]}: not found on the PATH") from None
        try:
            output, error = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise SlurmAwayError(f"{command[0]}: no response within {timeout_s:.0f} s") from None
        message = " ".join(error.split()) or f"exited with status {process.returncode}"
        if any(sign in error for sign in _NO_ANSWER) and (process.returncode or not output):
            raise SlurmAwayError(f"{command[0]}: {message}")
        if process.returncode:
            raise SlurmRefusedError(f"{command[0]}: {message}")
        return output
