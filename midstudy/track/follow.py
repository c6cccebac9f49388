"""A process beside a running study that keeps MLflow current; the study waits for it only at the end."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import sys
import tempfile
from types import TracebackType

from midstudy.environment import existing_folder, of_child
from midstudy.store.store import Store
from midstudy.track.client import TrackingError
from midstudy.track.sync import SyncReport


class Follower:
    """Sync a study every `every_s` seconds in a separate process while the context is open.

    `finish` makes a last sync. Leaving the context without it kills the process, which is safe: the next sync completes
    one that was interrupted anywhere.
    """

    def __init__(self, store: Store, study_name: str, *, tracking_uri: str | None = None, every_s: float = 60.0) -> None:
        self._command = [sys.executable, "-m", "midstudy.track", str(store.root), study_name]
        self._command += ["--follow", f"{every_s:g}"]
        self._later = f"midstudy track sync {study_name} --store {shlex.quote(str(store.root))}"
        if tracking_uri is not None:
            self._command += ["--tracking-uri", tracking_uri]

    def __enter__(self) -> Follower:
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C must reach the study alone; this process exits when its standard input closes
            env=of_child(OMP_NUM_THREADS="1"),
            cwd=existing_folder(),  # MLflow's address may be relative to it
        )
        return self

    def sync_soon(self) -> None:
        """Request a sync now, while the caller does other work, so that `finish` has less to do."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # the process has exited: `finish` reports why
            self._process.stdin.write("now\n")
            self._process.stdin.flush()

    def finish(self, *, timeout_s: float = 120.0) -> SyncReport:
        """Make a last sync and end the process.

        Raises:
            TrackingError: the sync failed or took longer than `timeout_s`; a later sync sends what is missing.
        """
        try:
            output, _ = self._process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise TrackingError(
                f"MLflow: the last sync took more than {timeout_s:g} s and was stopped. The results are in the store; "
                f"sync later with: {self._later}"
            ) from None
        if self._process.returncode != 0:
            self._errors.seek(0)
            lines = self._errors.read().strip().splitlines()
            raise TrackingError(lines[-1] if lines else f"MLflow: sync ended with status {self._process.returncode}.")
        return SyncReport(**json.loads(output.splitlines()[-1]))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
