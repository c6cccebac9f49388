"""A new folder appears complete or not at all, even if an error or a signal ends the write."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from midstudy.store.whole_folder import write_folder


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


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "above" / "new", interrupted)
    assert list(tmp_path.iterdir()) == []


_WRITER = """
import os, pathlib, signal, sys
from midstudy.store.whole_folder import write_folder

def write(temporary):
    (temporary / "one").write_text("1")
    os.kill(os.getpid(), signal.SIGKILL)

write_folder(pathlib.Path(sys.argv[1]), write)
"""


def test_a_killed_process_leaves_no_part_of_the_folder_under_its_name(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _WRITER, str(tmp_path / "new")], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name.startswith(".new.") for path in tmp_path.iterdir()] == [True]
