"""Rows of a Parquet file, in constant memory, and the digest of its bytes.

Parquet is not read from start to end: the digest is taken from the same open file after the rows, so text that changes
while it is read is detected as in JSONL.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

_BATCH_ROWS = 64
_BUFFER_BYTES = 2**20
_CHUNK_BYTES = 2**24


class ParquetFile:
    """An open Parquet file.

    Raises:
        ValueError: the file is missing or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("rb")
        except FileNotFoundError:
            raise ValueError(f"{path}: no such file. Expected a Parquet file.") from None
        except OSError as error:
            raise ValueError(f"{path}: cannot be opened ({error}).") from error
        self._path, self._sha256 = path, hashlib.sha256()
        self.num_bytes = os.fstat(self._file.fileno()).st_size

    def numbered_rows(
        self,
        *,
        fields: Sequence[str] = (),
        optional: Sequence[str] = (),
        on_read: Callable[[float], None] = lambda share: None,
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield each row with its number, from 1. A null is `None`, as in data sets of the Hub.

        Args:
            fields: the columns to read; all if it is empty, or if one of them is missing.
            optional: columns to read with them, as far as the file has them.
            on_read: called with the fraction of the rows read.

        Raises:
            ValueError: the file is damaged or not Parquet.
        """
        import pyarrow
        from pyarrow import parquet

        number = 0
        try:
            file = parquet.ParquetFile(self._file, buffer_size=_BUFFER_BYTES)
            present = file.schema_arrow.names
            known = [*fields, *(name for name in optional if name in present)]
            columns = known if fields and set(fields) <= set(present) else None
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
                on_read(min(1.0, number / max(1, file.metadata.num_rows)))
        except (OSError, pyarrow.ArrowException) as error:
            first = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"{self._path}: cannot be read after row {number} ({first}). Fetch or write the file again."
            ) from error

    def rest(self) -> Iterator[None]:
        """Digest the file in chunks, then close it."""
        if not self._file.closed:
            self._file.seek(0)
            while chunk := self._file.read(_CHUNK_BYTES):
                self._sha256.update(chunk)
                yield
            self._file.close()

    def digest(self) -> str:
        """Return the SHA-256 of the file's bytes, after `rest`."""
        return self._sha256.hexdigest()
