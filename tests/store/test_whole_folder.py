"""A new folder appears complete or not at all, even if an error or a signal ends the write at any moment."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from midstudy.store import whole_folder
from midstudy.store.whole_folder import ENDING_SIGNALS, EndedBySignal, write_folder


def fill(folder: Path) -> None:
    (folder / "one").write_text("1")
    (folder / "two").write_text("2")


def test_a_folder_appears_complete(tmp_path: Path) -> None:
    write_folder(tmp_path / "above" / "new", fill)
    assert sorted(path.name for path in (tmp_path / "above").iterdir()) == ["new"]
    assert sorted(path.name for path in (tmp_path / "above" / "new").iterdir()) == ["one", "two"]


def _fail(folder: Path) -> None:
    fill(folder)
    raise ZeroDivisionError


@pytest.mark.parametrize("place", ["new", "above/new", "further/above/new"])
def test_a_failure_leaves_nothing(tmp_path: Path, place: str) -> None:
    with pytest.raises(ZeroDivisionError):
        write_folder(tmp_path / place, _fail)
    assert list(tmp_path.iterdir()) == []


def test_existing_parent_folders_are_kept(tmp_path: Path) -> None:
    (tmp_path / "above").mkdir()
    with pytest.raises(ZeroDivisionError):
        write_folder(tmp_path / "above" / "new", _fail)
    assert list(tmp_path.iterdir()) == [tmp_path / "above"]


_WRITER = """
import os, pathlib, shutil, signal, sys
from midstudy.store import whole_folder
number, moment, folder = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])

def signalled(then=lambda *arguments, **options: None):
    def call(*arguments, **options):
        if moment != "twice":
            os.kill(os.getpid(), number)
        return then(*arguments, **options)
    return call

def write(temporary):
    (temporary / "one").write_text("1")
    if moment in ("written", "twice"):
        os.kill(os.getpid(), number)
        for _ in range(1000): pass
    (temporary / "two").write_text("2")
    if moment == "fails":
        raise OSError("full")

remove = shutil.rmtree
def removed(*arguments, **options):
    if moment in ("fails", "twice"):  # during the cleanup after a failure or a first signal
        os.kill(os.getpid(), number)
    remove(*arguments, **options)

whole_folder.shutil.rmtree = removed
if moment == "synced":
    whole_folder.sync = signalled(whole_folder.sync)
whole_folder.write_folder(folder, write)
"""


@pytest.mark.parametrize("number", ENDING_SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("moment", ["written", "synced", "fails", "twice"])
def test_a_signal_ends_the_process_and_leaves_nothing(tmp_path: Path, number: int, moment: str) -> None:
    command = [sys.executable, "-c", _WRITER, str(int(number)), moment, str(tmp_path / "above" / "new")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -number, done.stderr  # as without a handler: the parent sees the signal
    assert list(tmp_path.iterdir()) == []


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    """As under nohup."""

    def write(folder: Path) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        fill(folder)

    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        write_folder(tmp_path / "new", write)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, previous)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_previous_handler_is_called_and_restored(tmp_path: Path) -> None:
    arrived: list[int] = []
    handler = lambda number, frame: arrived.append(number)  # noqa: E731
    previous = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(EndedBySignal, match="SIGTERM"):
            write_folder(tmp_path / "new", lambda folder: os.kill(os.getpid(), signal.SIGTERM))
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert arrived == [signal.SIGTERM]
    assert list(tmp_path.iterdir()) == []


def test_writing_works_outside_the_main_thread(tmp_path: Path) -> None:
    import threading

    thread = threading.Thread(target=write_folder, args=(tmp_path / "new", fill))
    thread.start()
    thread.join()
    assert (tmp_path / "new" / "two").exists()
    assert whole_folder.shutil is shutil
