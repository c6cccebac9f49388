"""Data sets in a folder: JSONL files, gzip or not, one a split, known by the digest of their bytes."""

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


# First words of a split's file name, with any extension; and extensions of files that hold rows.
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
    """Files of a folder that look like data but are not read, each with what to do; empty if there are none.

    A file looks like data if its name starts with a split's name or has a data file's extension.
    """
    read = {name + ending for names in SPLIT_NAMES.values() for name in names for ending in ENDINGS}
    found = [
        path.name
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".")
        and path.suffix not in _NOT_DATA
        and not (path.name in read and path.is_file())
        and (_LIKE_A_SPLIT.fullmatch(path.name.lower()) or _LIKE_ROWS.fullmatch(path.name.lower()))
    ]
    return _some([_unread(folder / name) for name in found])


def other_files(folder: Path) -> str:
    """What a folder holds that is no split's file, whatever it is; empty where there is nothing."""
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
    """The file names accepted for a split."""
    return " or ".join(name + ending for name in SPLIT_NAMES[split] for ending in ENDINGS)


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
    yield from numbered_rows_of(opened(path), path, on_read=on_read)


def opened(path: Path) -> DigestedFile:
    """Open a file for `numbered_rows_of`; its `digest` is that of the bytes read.

    Raises:
        ValueError: the file is missing or cannot be opened.
    """
    try:
        return DigestedFile(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; allowed: a JSONL file, gzip or not.") from None
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
            buffered.detach()  # keeps the file open so that the rest can be read


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # the latter of a thousand brackets in one another
        raise ValueError(f"{where}: not JSON ({error}); allowed: one JSON object a line.") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: found {type(row).__name__}; allowed: one JSON object a line.")
    return row


def content_digest(folder: Path, *, read: Mapping[Path, str] | None = None) -> str:
    """SHA-256 over the split files of a folder: for train, dev, test in this order, the split's name and its bytes.

    Args:
        read: known digests of files that were just read.

    Raises:
        ValueError: the folder is missing or has no train split.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; allowed: a folder with {file_names('train')}.")
    if find_split(folder, "train") is None:
        raise ValueError(f"{folder}: the train split is missing; allowed: {file_names('train')}.")
    whole = hashlib.sha256()
    for split in SPLIT_NAMES:
        path = find_split(folder, split)
        if path is not None:
            digest = (read or {}).get(path) or file_digest(path)
            whole.update(f"{split} {digest}\n".encode("ascii"))
    return whole.hexdigest()
