"""Cached file digests: a replaced file is detected, even with the same size and timestamp."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from midstudy.data import digests
from midstudy.data.digests import DigestedFile, file_digest
from midstudy.data.files import numbered_rows_of

TIME_NS = (1_700_000_000_000_000_000, 1_700_000_000_000_000_000)
OLD, NEW = b"return 1\n" * 40_000, b"nruter 1\n" * 40_000


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDSTUDY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def caches_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of any size and age are cached."""
    monkeypatch.setattr(digests, "_SMALL_BYTES", 0)
    monkeypatch.setattr(digests, "_SETTLED_S", -60.0)


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=TIME_NS)
    return path


def moved_over(path: Path, content: bytes) -> None:
    write(path.with_name("new"), content).replace(path)


def removed_and_copied(path: Path, content: bytes) -> None:
    path.unlink()
    shutil.copy2(write(path.with_name("new"), content), path)


def written_in_place(path: Path, content: bytes) -> None:
    write(path, content)


def one_byte_in_the_middle(path: Path, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(len(content) // 2)
        file.write(b"X")
    os.utime(path, ns=TIME_NS)


def link_switched(path: Path, content: bytes) -> None:
    write(path.with_name("new"), content)
    path.unlink()
    path.symlink_to("new")


def folder_switched(path: Path, content: bytes) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))
    write(path.parent.with_name("v2") / path.name, content)
    path.parent.symlink_to("v2")


REPLACEMENTS = (moved_over, removed_and_copied, written_in_place, one_byte_in_the_middle, link_switched, folder_switched)


@pytest.mark.parametrize("replace", REPLACEMENTS)
@pytest.mark.parametrize("size", ["small", "large"])
def test_a_replaced_file_of_the_same_size_and_timestamp_is_detected(
    tmp_path: Path, replace: Callable[[Path, bytes], None], size: str, request: pytest.FixtureRequest
) -> None:
    if size == "large":
        request.getfixturevalue("caches_all")
    path = write(tmp_path / "data" / "test.jsonl", OLD)
    before = path.stat()
    assert file_digest(path) == hashlib.sha256(OLD).hexdigest()
    replace(path, NEW)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert file_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest() != hashlib.sha256(OLD).hexdigest()


def read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether the whole file is read to digest it."""
    read: list[Path] = []
    whole = hashlib.file_digest

    def recorded(*args: Any) -> Any:
        read.append(path)
        return whole(*args)

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", recorded)
        file_digest(path)
    return bool(read)


@pytest.mark.usefixtures("caches_all")
def test_a_large_unchanged_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "train.jsonl", OLD)
    assert [read_again(path, monkeypatch) for _ in range(3)] == [True, False, False]
    (entry,) = (tmp_path / "cache" / "digests").iterdir()
    for damage in ("", "0" * 63, "?" * 64, "\0" * 65):
        entry.write_text(damage)
        assert file_digest(path) == hashlib.sha256(OLD).hexdigest()


def test_a_file_that_changed_recently_is_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may change again within the resolution of the timestamp."""
    monkeypatch.setattr(digests, "_SMALL_BYTES", 0)
    path = write(tmp_path / "train.jsonl", OLD)
    assert [read_again(path, monkeypatch) for _ in range(2)] == [True, True]
    later_s = path.stat().st_ctime + 60
    monkeypatch.setattr(digests.time, "time", lambda: later_s)
    assert [read_again(path, monkeypatch) for _ in range(2)] == [True, False]


@pytest.mark.parametrize("size", ["small", "large"])
def test_a_replaced_file_with_the_same_inode_and_times_is_detected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str, request: pytest.FixtureRequest
) -> None:
    """For example, two disk images with fixed timestamps, mounted at the same path one after the other."""
    if size == "large":
        request.getfixturevalue("caches_all")
    monkeypatch.setattr(digests, "_facts", lambda file: (1, 2, 3, 4))
    path = write(tmp_path / "train.jsonl", OLD)
    file_digest(path)
    moved_over(path, NEW)
    assert file_digest(path) == hashlib.sha256(NEW).hexdigest()


@pytest.mark.parametrize("name", ["train.jsonl", "train.jsonl.gz"])
@pytest.mark.parametrize("num_rows", [0, 1, 700, None])
def test_the_digest_after_reading_rows_covers_the_whole_file(tmp_path: Path, name: str, num_rows: int | None) -> None:
    text = "".join(json.dumps({"text": f"{number} " * 50}) + "\n" for number in range(1_000)).encode()
    path = write(tmp_path / name, gzip.compress(text) if name.endswith(".gz") else text)
    file = DigestedFile(path)
    rows = numbered_rows_of(file, path)
    numbers = [number for number, _ in (rows if num_rows is None else (next(rows) for _ in range(num_rows)))]
    assert numbers == list(range(1, (1_000 if num_rows is None else num_rows) + 1))
    for _ in file.rest():
        pass
    assert file.digest() == hashlib.sha256(path.read_bytes()).hexdigest()
    assert file.num_read == path.stat().st_size
