"""The files of a source in the order in which they are read, and the rows of one of them: what parts of a source share.

Only files and the Hub have them. The built-in text is small and prepared as a whole, and a mix reads its sources in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midstudy.data import hub
from midstudy.data.file_sequence import FileSequence
from midstudy.data.source import carved_in, checked_rows
from midstudy.data.split_files import split_files
from midstudy.data.splits import SPLIT_NAMES, carved_splits, split_of_row
from midstudy.recipe.data import Dataset, Source, Task

_TEXT_RATIO = {".gz": 3.0, ".zst": 3.5, ".parquet": 2.5}


def text_ratio(name: str) -> float:
    """Return the assumed bytes of text per byte of a file, by the end of its name."""
    return _TEXT_RATIO.get(Path(name).suffix, 1.0)


@dataclass(frozen=True)
class SourceFile:
    """File `number` of the files that a source has for `split`; `num_bytes` is its size as it is stored."""

    split: str
    number: int
    name: str
    num_bytes: int

    @property
    def text_bytes(self) -> float:
        """Expected UTF-8 bytes of text, from the size of the file and the ending of its name."""
        return text_ratio(self.name) * self.num_bytes


@dataclass(frozen=True)
class SourceFiles:
    """All files of a source: those of train, then of dev and test where it has them. `carved` are taken from train."""

    files: tuple[SourceFile, ...]
    carved: tuple[str, ...]

    def holding(self, split: str) -> Iterator[int]:
        """Yield the numbers of the files that hold the rows of a split, in order."""
        held_by = "train" if split in self.carved else split
        return (number for number, file in enumerate(self.files) if file.split == held_by)

    def split_of(self, row: dict[str, Any], file: SourceFile, *, is_task: bool) -> str:
        """Return the split of a row."""
        if file.split != "train" or not self.carved:
            return file.split
        return split_of_row(row, carved=self.carved, is_task=is_task)


def files_of(data: Dataset) -> SourceFiles | None:
    """Return the files of a data set's source; `None` for built-in, declared and prepared text, and for mixes of sources.

    For the Hub the repository is listed, which needs the network; no file of data is opened.

    Raises:
        ValueError: a split is missing, or the Hub cannot be reached.
    """
    source, is_task = data.source, isinstance(data, Task)
    if not isinstance(source, Source) or source.kind in ("wheels", "declared"):
        return None
    if source.kind == "files":
        place = Path(source.location)
        found = {split: split_files(place, split) for split in SPLIT_NAMES}
        sizes = {split: [(str(path), path.stat().st_size) for path in paths] for split, paths in found.items()}
        carved = carved_in(place, is_task)
    else:
        listed = hub.files(source.part, source.config, source.revision)
        sizes = {split: list(listed.get(split, ())) for split in SPLIT_NAMES}
        carved = carved_splits(listed, is_task=is_task, where=f"hub:{source.part}")
    return SourceFiles(
        tuple(
            SourceFile(split, number, name, num_bytes)
            for split, found_files in sizes.items()
            for number, (name, num_bytes) in enumerate(found_files)
        ),
        carved,
    )


class FileRows:
    """The rows of one file, in order, each checked to have the fields of a layout; iterate once, then call `finish`.

    Args:
        on_read: called regularly with the fraction of the file read; files only.
    """

    def __init__(
        self, source: Source, file: SourceFile, *, is_task: bool, on_read: Callable[[float], None] = lambda share: None
    ) -> None:
        self._sequence: FileSequence | None = None
        if source.kind == "files":
            self._sequence = FileSequence([Path(file.name)], fields=source.fields, on_read=on_read)
            numbered = self._sequence.rows()
        else:
            rows = hub.load_file(source.part, source.config, source.revision, file.split, file.number)
            numbered = ((f"{file.name}:{number}", row) for number, row in enumerate(rows, start=1))
        self._rows = checked_rows(numbered, source, is_task)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._rows

    def finish(self) -> str:
        """Read the rest of the file without parsing it and return its SHA-256; of the Hub's files, whose commit fixes them,
        nothing more is read and the result is empty."""
        if self._sequence is None:
            return ""
        for _ in self._sequence.rest():
            pass
        (digest,) = self._sequence.digests.values()
        return digest
