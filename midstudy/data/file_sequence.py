"""The rows of a split's files one after another, each file digested while it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from midstudy.data.digests import DigestedFile
from midstudy.data.files import numbered_rows_of, open_digested
from midstudy.data.parquet_file import ParquetFile
from midstudy.data.rows import fields_to_read


class FileSequence:
    """The files of a split. The first is opened at once, each other when its first row is read.

    Args:
        paths: in the order of their rows.
        fields: the fields that the source declares, which are read as far as a file's format can leave the others out; all
            if it is empty.
        on_read: called regularly with the fraction of the bytes of all files read so far.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        fields: Sequence[tuple[str, str]] = (),
        on_read: Callable[[float], None] = lambda share: None,
    ) -> None:
        self._paths, self._on_read = paths, on_read
        self._fields, self._optional = fields_to_read(fields)
        self._sizes = [path.stat().st_size if path.exists() else 0 for path in paths]
        self._number, self._bytes_before, self._all_bytes = 0, 0, sum(self._sizes)
        self._file = _opened(paths[0])
        self.digests: dict[Path, str] = {}
        """The digests of the files that were read to their ends."""

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each row and its place, `file:line` (of Parquet: `file:row`).

        Raises:
            ValueError: a file is missing, damaged or not of its format, or a line is not a JSON object.
        """
        for number, path in enumerate(self._paths):
            if number:
                self._number, self._file = number, _opened(path)
                self._bytes_before += self._sizes[number - 1]
            for place, row in self._numbered(path):
                yield f"{path}:{place}", row
            if number + 1 < len(self._paths):
                for _ in self._rest_of_file():
                    pass

    def _numbered(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        if isinstance(self._file, ParquetFile):
            return self._file.numbered_rows(fields=self._fields, optional=self._optional, on_read=self._report)
        return numbered_rows_of(self._file, path, on_read=self._report)

    def _report(self, share: float) -> None:
        num_bytes = self._bytes_before + share * self._sizes[self._number]
        self._on_read(min(1.0, num_bytes / max(1, self._all_bytes)))

    def rest(self) -> Iterator[None]:
        """Read the rest of the open file in chunks. Files of which no row was read are not opened: nothing rests on them."""
        yield from self._rest_of_file()

    def _rest_of_file(self) -> Iterator[None]:
        path = self._paths[self._number]
        if path not in self.digests:
            yield from self._file.rest()
            self.digests[path] = self._file.digest()


def _opened(path: Path) -> DigestedFile | ParquetFile:
    return ParquetFile(path) if path.suffix == ".parquet" else open_digested(path)
