"""Signs of life of drivers, by which others know whose jobs they may take over.

drivers/DRIVER/heartbeat      its time of change moves as long as the driver lives
drivers/DRIVER/ended          the driver has left, with jobs that go on
drivers/DRIVER/cancel-STUDY   somebody asked the driver to end this study

A driver of this host is looked up among its processes. Of another host's, the heartbeat is watched by this host's clock
alone: it is stale once it has not moved for `STALE_AFTER_S`, whatever the clocks of the two hosts say.
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
"""Twelve beats: a network file system may show a file's time of change a minute late."""


class Heartbeats:
    """One driver's own heartbeat, and what it has seen of the others'."""

    def __init__(self, store: Store, me: Process) -> None:
        self._store, self._me = store, me
        self._seen: dict[str, tuple[int, float]] = {}

    def begin(self, study: str) -> None:
        """Give the first sign of life, before any job names this driver.

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
        with contextlib.suppress(OSError):  # others wait longer than for one beat
            os.utime(self._store.paths.driver_heartbeat(self._me.key))

    def end(self, *, jobs_go_on: bool) -> None:
        """Say that this driver is gone; what is left of it is removed once none of its jobs is."""
        folder = self._store.paths.driver(self._me.key)
        with contextlib.suppress(OSError):
            if jobs_go_on:
                (folder / "ended").touch()
            else:
                shutil.rmtree(folder)

    def is_fresh(self, driver: Process) -> bool:
        """Whether a driver lives, as far as can be told; of one that nobody has watched for long enough yet, it is said."""
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
        """Whether a driver said that it is gone."""
        return (self._store.paths.driver(driver.key) / "ended").exists()

    def _beat_of(self, driver: Process) -> int:
        try:
            # Opened and not only looked at: a network file system then asks its server (close-to-open consistency).
            with self._store.paths.driver_heartbeat(driver.key).open("rb") as file:
                return os.fstat(file.fileno()).st_mtime_ns
        except OSError:
            return -1

    # -- being told to end --------------------------------------------------------------------------------------------

    def is_told_to_cancel(self, study: str) -> bool:
        return self._store.paths.driver_cancel(self._me.key, study).exists()


def tell_to_cancel(store: Store, driver: Process, study: str) -> None:
    """Ask a driver, wherever it is, to end a study: it looks before it submits anything."""
    path = store.paths.driver_cancel(driver.key, study)
    with contextlib.suppress(FileNotFoundError):  # its folder is gone, and so is the driver
        path.touch()


def forget_ended(store: Store, needed: Collection[str]) -> None:
    """Remove what drivers left that have ended and are not `needed`: by their keys, those that jobs name."""
    for folder in entries(store.paths.drivers):
        if folder.name not in needed and (folder / "ended").exists():
            shutil.rmtree(folder, ignore_errors=True)
