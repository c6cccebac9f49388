"""Rows of JSONL files, plain, gzipped or compressed with zstd; and the digest that identifies a source's files.

Files are read once from the start, in constant memory, and digested on the way.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from midstudy.data.digests import DigestedFile, file_digest
from midstudy.data.split_files import file_names, split_files
from midstudy.data.splits import SPLIT_NAMES

_LINES_BETWEEN_REPORTS = 16
_BUFFER_BYTES = 2**16


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
        raise ValueError(f"{path}: no such file. Expected a JSONL file, optionally compressed, or Parquet.") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be opened ({error}).") from error


def numbered_rows_of(
    file: DigestedFile, path: Path, *, on_read: Callable[[float], None] = lambda share: None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Like `numbered_rows`, but for an open file."""
    number = 0
    buffered = io.BufferedReader(file, _BUFFER_BYTES)
    try:
        for number, line in enumerate(_lines(buffered, path), start=1):
            if number % _LINES_BETWEEN_REPORTS == 0:
                on_read(min(1.0, file.num_read / max(1, file.num_bytes)))
            if line.strip():
                yield number, _object(line, f"{path}:{number}")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read after line {number} ({error}). Fetch or write the file again.") from error
    finally:
        if not file.closed:
            buffered.detach()  # keep the file open, so that the rest can be read


def _lines(buffered: io.BufferedReader[DigestedFile], path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, decompressed as its name says."""
    if path.suffix == ".gz":
        yield from gzip.GzipFile(fileobj=buffered)
    elif path.suffix == ".zst":
        import pyarrow  # takes 0.1 s, so only if needed

        # pyarrow closes the file that it reads when it is freed: it gets a reader of its own, `buffered` stays open.
        compressed = pyarrow.PythonFile(_Unclosed(buffered), mode="r")
        with pyarrow.CompressedInputStream(compressed, "zstd") as stream:
            yield from io.BufferedReader(stream, _BUFFER_BYTES)
    else:
        yield from buffered


class _Unclosed(io.RawIOBase):
    """Reads a file without closing it."""

    def __init__(self, file: io.BufferedReader[DigestedFile]) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._file.readinto(buffer)


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        # Text spares `json` the search for an encoding; other beginnings, such as a byte order mark, are left to it.
        row = json.loads(line.decode("utf-8", "surrogatepass") if line.startswith(b'{"') else line)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: expected UTF-8 text, got byte 0x{line[error.start]:02x} at byte {error.start + 1} of the line "
            "(not UTF-8). Convert the file, for example with `iconv -f latin1 -t utf-8`, or remove the line."
        ) from None
    except (ValueError, RecursionError) as error:  # RecursionError: deeply nested brackets
        raise ValueError(
            f"{where}: expected one JSON object per line, got text that is not JSON ({error}). Correct or remove the line."
        ) from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected one JSON object per line, got {type(row).__name__}.")
    return row


def content_digest(place: Path, *, read: Mapping[Path, str] | None = None) -> str:
    """Return the SHA-256 over the files of a source: split and digest of train, dev and test, in this order.

    The digest of a split of several files is the SHA-256 of the lines of their digests, in the order in which they are read.

    Args:
        place: the folder of a data set, or its only file.
        read: digests of files that were just read.

    Raises:
        ValueError: the folder or file is missing, or the folder has no train split.
    """
    if not place.exists():
        raise ValueError(f"{place}: no such folder. Expected a folder with {file_names('train')}.")
    if not split_files(place, "train"):
        raise ValueError(f"{place}: the train split is missing. Expected {file_names('train')}.")
    whole = hashlib.sha256()
    for split in SPLIT_NAMES:
        digests = [(read or {}).get(path) or file_digest(path) for path in split_files(place, split)]
        if digests:
            whole.update(f"{split} {_of_all(digests)}\n".encode("ascii"))
    return whole.hexdigest()


def _of_all(digests: list[str]) -> str:
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode("ascii")).hexdigest()
