"""Data sets in a folder: JSONL files, gzip or not, one a split, known by the digest of their bytes."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from midstudy.data.cache import cache_dir

SPLIT_NAMES = {"train": ("train",), "dev": ("validation", "dev"), "test": ("test",)}
"""The file names a split may have, without their ending."""

ENDINGS = (".jsonl", ".jsonl.gz")

_LINES_BETWEEN_REPORTS = 16


def find_split(folder: Path, split: str) -> Path | None:
    """The file of a split, or None where the folder has none.

    Raises:
        ValueError: the folder has several files for the split.
    """
    names = [name + ending for name in SPLIT_NAMES[split] for ending in ENDINGS]
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) > 1:
        raise ValueError(
            f"{folder}: found {' and '.join(path.name for path in found)} for the {split} split; allowed: one file. "
            "Move the one that is not meant elsewhere."
        )
    return found[0] if found else None


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file in order, blank lines left out.

    Raises:
        ValueError: the file is missing, a truncated or damaged gzip, not UTF-8, or a line is not a JSON object; the
            message names the file and the line.
    """
    for _, row in numbered_rows(path):
        yield row


def numbered_rows(
    path: Path, *, on_read: Callable[[float], None] = lambda share: None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `read_rows`, each row with its line number, from 1; now and then `on_read` is told the share of the file read."""
    number = 0
    try:
        with path.open("rb") as file, gzip.open(file, "rb") if path.suffix == ".gz" else file as lines:
            num_bytes = os.fstat(file.fileno()).st_size
            for number, line in enumerate(lines, start=1):
                if number % _LINES_BETWEEN_REPORTS == 0:
                    on_read(file.tell() / num_bytes)
                if line.strip():
                    yield number, _object(line, f"{path}:{number}")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; allowed: a JSONL file, gzip or not.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read after line {number} ({error}). Fetch or write the file again.") from error


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # the latter of a thousand brackets in one another
        raise ValueError(f"{where}: not JSON ({error}); allowed: one JSON object a line.") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: found {type(row).__name__}; allowed: one JSON object a line.")
    return row


def content_digest(folder: Path) -> str:
    """SHA-256 over the split files of a folder: for train, dev, test in this order, the split's name and its bytes.

    Raises:
        ValueError: the folder is missing or has no train split.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; allowed: a folder with {_names('train')}.")
    if find_split(folder, "train") is None:
        raise ValueError(f"{folder}: the train split is missing; allowed: {_names('train')}.")
    whole = hashlib.sha256()
    for split in SPLIT_NAMES:
        path = find_split(folder, split)
        if path is not None:
            whole.update(f"{split} {file_digest(path)}\n".encode("ascii"))
    return whole.hexdigest()


def _names(split: str) -> str:
    return " or ".join(name + ending for name in SPLIT_NAMES[split] for ending in ENDINGS)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes; that of a file that has not changed (path, size, modification time) is remembered."""
    status = path.stat()
    key = f"{path.absolute()}\n{status.st_size}\n{status.st_mtime_ns}"
    try:
        remembered = cache_dir() / "digests" / hashlib.sha256(os.fsencode(key)).hexdigest()
    except ValueError:  # nowhere to remember it
        remembered = Path(os.devnull) / "digest"
    try:
        known = remembered.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        known = ""
    if len(known) == 64:
        return known
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # A cache that cannot be written costs time, not correctness.
    try:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=remembered.parent, delete=False) as temporary:
            temporary.write(digest + "\n")
        Path(temporary.name).replace(remembered)
    except OSError:
        pass
    return digest
