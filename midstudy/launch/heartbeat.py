"""Heartbeats of drivers, from which other drivers see whose jobs they may take over.

drivers/DRIVER/heartbeat      its modification time advances as long as the driver is alive
drivers/DRIVER/ended          exists if the driver has detached and its jobs keep running
drivers/DRIVER/cancel-STUDY   exists if the driver was asked to end this study

A driver on this host is looked up among the processes. A driver on another host is stale once its heartbeat has not changed
for `STALE_AFTER_S` seconds by this host's clock; the two hosts' clocks are never compared.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection

from midstudy.files.errors import unwritable
from midstudy.launch import clock
from midstudy.launch.process import Process
from midstudy.store.leftovers import entries
from midstudy.store.store import Store

BEAT_EVERY_S = 10.0
STALE_AFTER_S = 120.0
"""Twelve beats: a network file system may show a modification time a minute late."""


class Heartbeats:
    """A driver's own heartbeat, and its observations of the other drivers' heartbeats."""

    def __init__(self, store: Store, me: Process) -> None:
        self._store, self._me = store, me
        self._seen: dict[str, tuple[int, float]] = {}

    def begin(self, study: str) -> None:
        """Write the first heartbeat, before any job names this driver.

        Raises:
            StoreError: the store cannot be written.
        """
        path = self._store.paths.driver_heartbeat(self._me.key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            for name in ("ended", f"cancel-{study}"):
                (path.parent / name).unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(path, error) from error

    def beat(self) -> None:
        """Renew this driver's heartbeat."""
        with contextlib.suppress(OSError):  # a single missed beat does not make it stale
            os.utime(self._store.paths.driver_heartbeat(self._me.key))

    def end(self, *, jobs_go_on: bool) -> None:
        """Mark this driver as ended, or remove its folder if none of its jobs keeps running."""
        folder = self._store.paths.driver(self._me.key)
        with contextlib.suppress(OSError):
            if jobs_go_on:
                (folder / "ended").touch()
            else:
                shutil.rmtree(folder)

    def is_fresh(self, driver: Process) -> bool:
        """Return True if the driver is alive or has not been observed long enough to be declared stale."""
        if driver == self._me:
            return True
        if driver.is_here and driver.boot_id == self._me.boot_id:
            return driver.is_alive()
        if self.has_left(driver):
            return False
        beat = self._beat_of(driver)
        known = self._seen.get(driver.key)
        if known is None or known[0] != beat:
            self._seen[driver.key] = (beat, clock.monotonic())
            return True
        return clock.monotonic() - known[1] < STALE_AFTER_S

    def has_left(self, driver: Process) -> bool:
        """Return whether a driver has marked itself as ended."""
        return (self._store.paths.driver(driver.key) / "ended").exists()

    def _beat_of(self, driver: Process) -> int:
        try:
            # Opened, not only stat'ed, so that a network file system asks its server (close-to-open consistency).
            with self._store.paths.driver_heartbeat(driver.key).open("rb") as file:
                return os.fstat(file.fileno()).st_mtime_ns
        except OSError:
            return -1

    # -- cancel requests ----------------------------------------------------------------------------------------------

    def is_cancel_requested(self, study: str) -> bool:
        """Return whether this driver was asked to end a study."""
        return self._store.paths.driver_cancel(self._me.key, study).exists()


def request_cancel(store: Store, driver: Process, study: str) -> None:
    """Ask a driver, on any host, to end a study. It checks before it submits jobs."""
    path = store.paths.driver_cancel(driver.key, study)
    with contextlib.suppress(FileNotFoundError):  # no folder: the driver has ended
        path.touch()


def forget_ended(store: Store, needed: Collection[str]) -> None:
    """Remove the folders of ended drivers, except those whose keys are in `needed` because a job names them."""
    for folder in entries(store.paths.drivers):
        if folder.name not in needed and (folder / "ended").exists():
            shutil.rmtree(folder, ignore_errors=True)
