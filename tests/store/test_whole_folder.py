"""A folder being written appears complete or not at all, whatever ends the writing and when."""

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


def test_a_folder_appears_whole(tmp_path: Path) -> None:
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


def test_what_is_there_already_above_the_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "above").mkdir()
    with pytest.raises(ZeroDivisionError):
        write_folder(tmp_path / "above" / "new", _fail)
    assert list(tmp_path.iterdir()) == [tmp_path / "above"]


_WRITER = """
import os, pathlib, shutil, signal, sys
from midstudy.store import whole_folder
number, moment, folder = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])

def told(then=lambda *arguments, **options: None):
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
    if moment in ("fails", "twice"):  # while what a failure, or a first signal, left is removed
        os.kill(os.getpid(), number)
    remove(*arguments, **options)

whole_folder.shutil.rmtree = removed
if moment == "synced":
    whole_folder.sync = told(whole_folder.sync)
whole_folder.write_folder(folder, write)
"""


@pytest.mark.parametrize("number", ENDING_SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("moment", ["written", "synced", "fails", "twice"])
def test_a_signal_ends_the_process_and_leaves_nothing(tmp_path: Path, number: int, moment: str) -> None:
    command = [sys.executable, "-c", _WRITER, str(int(number)), moment, str(tmp_path / "above" / "new")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -number, done.stderr  # as without a handler: the parent sees the signal
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """As under nohup."""

    def write(folder: Path) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        fill(folder)

    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        write_folder(tmp_path / "new", write)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_handler_of_before_has_its_say_and_is_put_back(tmp_path: Path) -> None:
    came: list[int] = []
    handler = lambda number, frame: came.append(number)  # noqa: E731
    former = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(EndedBySignal, match="SIGTERM"):
            write_folder(tmp_path / "new", lambda folder: os.kill(os.getpid(), signal.SIGTERM))
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, former)
    assert came == [signal.SIGTERM]
    assert list(tmp_path.iterdir()) == []


def test_a_thread_writes_too(tmp_path: Path) -> None:
    import threading

    thread = threading.Thread(target=write_folder, args=(tmp_path / "new", fill))
    thread.start()
    thread.join()
    assert (tmp_path / "new" / "two").exists()
    assert whole_folder.shutil is shutil
