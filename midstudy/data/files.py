"""Data sets in a folder: one JSONL file per split, optionally gzipped, identified by the digest of their bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from midstudy.data.digests import DigestedFile, file_digest
from midstudy.data.splits import SPLIT_NAMES

ENDINGS = (".jsonl", ".jsonl.gz")

_LINES_BETWEEN_REPORTS = 16
_BUFFER_BYTES = 2**16


def find_split(folder: Path, split: str) -> Path | None:
    """Return the file of a split, or `None` if the folder has none.

    Raises:
        ValueError: the folder has several files for the split.
    """
    names = [name + ending for name in SPLIT_NAMES[split] for ending in ENDINGS]
    paths = [folder / name for name in names if (folder / name).is_file()]
    if len(paths) > 1:
        raise ValueError(
            f"{folder}: expected one file for the {split} split, got {' and '.join(path.name for path in paths)}. "
            "Move the wrong one elsewhere."
        )
    return paths[0] if paths else None


# File names that start with a split's name, with any extension; and file names with the extension of a data file.
_LIKE_A_SPLIT = re.compile(r"(train|training|valid|validation|val|dev|devel|eval|evaluation|test|testing|tests)([^a-z].*)?")
_LIKE_ROWS = re.compile(r".*\.(jsonl|ndjson|jsonlines|parquet|arrow|csv|tsv)(\.[a-z0-9]+)?")
_REMEDIES = {
    ".zst": "zstd -d",
    ".xz": "xz -d",
    ".bz2": "bzip2 -d",
    ".zip": "unzip",
    ".lz4": "lz4 -d",
}
_NOT_DATA = (".py", ".sh", ".md", ".log", ".lock")
_MOST_NAMED = 5


def unread_files(folder: Path) -> str:
    """Name the files of a folder that look like data but are not read, each with a fix; empty if there are none.

    A file looks like data if its name starts with a split's name or has a data file's extension.
    """
    read = {name + ending for names in SPLIT_NAMES.values() for name in names for ending in ENDINGS}
    names = [
        path.name
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".")
        and path.suffix not in _NOT_DATA
        and not (path.name in read and path.is_file())
        and (_LIKE_A_SPLIT.fullmatch(path.name.lower()) or _LIKE_ROWS.fullmatch(path.name.lower()))
    ]
    return _some([_unread(folder / name) for name in names])


def other_files(folder: Path) -> str:
    """Name everything in a folder that is not the file of a split; empty if there is nothing."""
    read = {name + ending for names in SPLIT_NAMES.values() for name in names for ending in ENDINGS}
    names = (path.name for path in sorted(folder.iterdir()) if not path.name.startswith(".") and path.name not in read)
    return _some([_unread(folder / name) for name in names])


def _some(names: list[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else "")


def _unread(path: Path) -> str:
    for ending, command in _REMEDIES.items():
        if path.name.lower().endswith(ending):
            return f"{path.name} (`{command}` it)"
    if path.is_symlink() and not path.exists():
        return f"{path.name} (a broken link)"
    return f"{path.name}/ (a folder)" if path.is_dir() else path.name


def file_names(split: str) -> str:
    """Return the accepted file names of a split, for messages."""
    return " or ".join(name + ending for name in SPLIT_NAMES[split] for ending in ENDINGS)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSONL file in order, without blank lines.

    Raises:
        ValueError: the file is missing, truncated, damaged or not UTF-8, or a line is not a JSON object; the message names
            the file and the line.
    """
    for _, row in numbered_rows(path):
        yield row


def numbered_rows(
    path: Path, *, on_read: Callable[[float], None] = lambda share: None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Like `read_rows`, with the line number of each row, from 1; calls `on_read` with the fraction of the file read."""
    yield from numbered_rows_of(open_digested(path), path, on_read=on_read)


def open_digested(path: Path) -> DigestedFile:
    """Open a file for `numbered_rows_of`; its `digest` covers the bytes read.

    Raises:
        ValueError: the file is missing or cannot be opened.
    """
    try:
        return DigestedFile(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file. Expected a JSONL file, optionally gzipped.") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be opened ({error}).") from error


def numbered_rows_of(
    file: DigestedFile, path: Path, *, on_read: Callable[[float], None] = lambda share: None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Like `numbered_rows`, but for an open file."""
    number = 0
    buffered = io.BufferedReader(file, _BUFFER_BYTES)
    lines = gzip.GzipFile(fileobj=buffered) if path.suffix == ".gz" else buffered
    try:
        for number, line in enumerate(lines, start=1):
            if number % _LINES_BETWEEN_REPORTS == 0:
                on_read(min(1.0, file.num_read / max(1, file.num_bytes)))
            if line.strip():
                yield number, _object(line, f"{path}:{number}")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read after line {number} ({error}). Fetch or write the file again.") from error
    finally:
        if not file.closed:
            buffered.detach()  # keep the file open, so that the rest can be read


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # RecursionError: deeply nested brackets
        raise ValueError(f"{where}: expected one JSON object per line, got text that is not JSON ({error}).") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected one JSON object per line, got {type(row).__name__}.")
    return row


def content_digest(folder: Path, *, read: Mapping[Path, str] | None = None) -> str:
    """Return the SHA-256 over the split files of a folder: name and digest of train, dev and test, in this order.

    Args:
        read: digests of files that were just read.

    Raises:
        ValueError: the folder is missing or has no train split.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder. Expected a folder with {file_names('train')}.")
    if find_split(folder, "train") is None:
        raise ValueError(f"{folder}: the train split is missing. Expected {file_names('train')}.")
    whole = hashlib.sha256()
    for split in SPLIT_NAMES:
        path = find_split(folder, split)
        if path is not None:
            digest = (read or {}).get(path) or file_digest(path)
            whole.update(f"{split} {digest}\n".encode("ascii"))
    return whole.hexdigest()
