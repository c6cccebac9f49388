"""JSONL folders: optionally gzipped, found by split, read with line numbers, identified by the digest of their bytes."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from pathlib import Path

import pytest

from midstudy.data.files import content_digest, read_rows
from midstudy.data.split_files import split_files

ROWS = [{"text": "one"}, {"text": "zwei – ü"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDSTUDY_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", ["train.jsonl", "train.jsonl.gz"])
def test_rows_are_read_from_plain_and_gzip_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(LINES) if name.endswith(".gz") else LINES)
    assert list(read_rows(path)) == ROWS


def test_blank_lines_are_skipped_but_count_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"text": "a"}\n\n  \n{"text": \n')
    with pytest.raises(ValueError, match=r"train\.jsonl:4: expected one JSON object per line, got text that is not JSON"):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'["a", "b"]\n', "train.jsonl.gz:1: expected one JSON object per line, got list"),
        (b'{"text": "a"}\n"x"\n', "train.jsonl.gz:2: expected one JSON object per line, got str"),
        (b'{"text": "\xff"}\n', "train.jsonl.gz:1: expected UTF-8 text, got byte 0xff at byte 11 of the line"),
        (
            b'{"text": "a", "more": ' + b"[" * 100_000 + b"}\n",
            "train.jsonl.gz:1: expected one JSON object per line, got text that is not JSON",
        ),
    ],
)
def test_a_line_that_is_not_an_object_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "train.jsonl.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=r"expected (one JSON object per line|UTF-8 text)") as error:
        list(read_rows(path))
    assert message in str(error.value)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "not gzip"])
def test_a_damaged_gzip_file_is_an_error(tmp_path: Path, damage: str) -> None:
    whole = gzip.compress(os.urandom(2000).hex().join(['{"text": "', '"}\n']).encode() * 50)
    path = tmp_path / "train.jsonl.gz"
    middle = len(whole) // 2
    path.write_bytes({
        "truncated": whole[:middle],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :],
        "not gzip": LINES,
    }[damage])  # fmt: skip
    with pytest.raises(ValueError, match=r"train\.jsonl\.gz"):
        list(read_rows(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.jsonl: no such file"):
        list(read_rows(tmp_path / "gone.jsonl"))


@pytest.mark.parametrize("name", ["validation.jsonl", "dev.jsonl.gz"])
def test_validation_and_dev_are_both_the_dev_split(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert split_files(tmp_path, "dev") == (tmp_path / name,)
    assert split_files(tmp_path, "test") == ()


def test_two_files_for_one_split_are_rejected(tmp_path: Path) -> None:
    for name in ("train.jsonl", "train.jsonl.gz"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected one file for the train split, got train\.jsonl and train\.jsonl\.gz"):
        split_files(tmp_path, "train")


def test_the_digest_covers_the_bytes_of_the_splits_in_order(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(b"aa")
    (tmp_path / "test.jsonl").write_bytes(b"cc")
    (tmp_path / "notes.txt").write_bytes(b"irrelevant")
    by_hand = hashlib.sha256(
        f"train {hashlib.sha256(b'aa').hexdigest()}\ntest {hashlib.sha256(b'cc').hexdigest()}\n".encode()
    ).hexdigest()
    assert content_digest(tmp_path) == by_hand


def test_the_digest_changes_with_the_content_at_the_same_size(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"aa")
    before = content_digest(tmp_path)
    path.write_bytes(b"ab")
    os.utime(path, ns=(1, 1))
    assert content_digest(tmp_path) != before


def test_the_digest_depends_neither_on_the_folders_path_nor_on_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_bytes(LINES)
    first = content_digest(tmp_path / "here")
    monkeypatch.setenv("MIDSTUDY_CACHE", "/proc/no/such/place")
    assert content_digest(tmp_path / "there") == first == content_digest(tmp_path / "here")


def test_a_folder_without_a_train_split_has_no_digest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train split is missing\. Expected train\.jsonl, with \.jsonl\.gz"):
        content_digest(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        content_digest(tmp_path / "nowhere")
