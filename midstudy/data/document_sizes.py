"""Sizes of the documents of a file: enough to apply limits and to cut shards without the text.

Measured once for each row of a file, whatever its split: the bytes and characters that limits count, whether it is blank,
whether it is in the corpus's part of train, and the bytes of the texts to encode, which fill shards.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from midstudy.data.conversation import plain_text
from midstudy.data.limit import text_size
from midstudy.data.question import document_of_row
from midstudy.data.rows import as_example, as_text
from midstudy.data.shards import Document, encoded
from midstudy.data.source_files import FileRows, SourceFile, SourceFiles
from midstudy.data.train_part import is_in_part
from midstudy.recipe.data import SPLITS, Corpus, Dataset, Source, Task

SIZES_FILE = "sizes.safetensors"

_SPLIT, _BLANK, _OTHER_PART = 3, 4, 8
"""Bits of a row's flags: the number of its split in `SPLITS`, and one bit each."""


class MeasuredDocument(NamedTuple):
    """A document by its sizes (as in `limit.TextSize`); `row` counts the rows before it in file `file`, `document_bytes` the
    UTF-8 bytes of the texts to encode."""

    num_bytes: int
    num_characters: int
    is_blank: bool
    is_in_part: bool
    document_bytes: int
    file: int
    row: int


@dataclass(frozen=True, eq=False)
class FileSizes:
    """Sizes of the n rows of a file: uint8 `flags` and int64 `sizes` of shape (3, n), which holds the bytes and characters
    that limits count, and the bytes to encode."""

    flags: NDArray[np.uint8]
    sizes: NDArray[np.int64]

    def documents(self, split: str, file: int) -> Iterator[MeasuredDocument]:
        """Yield the documents of a split in file number `file`, in order."""
        rows = np.flatnonzero((self.flags & _SPLIT) == SPLITS.index(split))
        flags, sizes = self.flags[rows], self.sizes[:, rows].tolist()
        blank, in_part = ((flags & _BLANK) > 0).tolist(), ((flags & _OTHER_PART) == 0).tolist()
        for num_bytes, num_characters, is_blank, is_in, document_bytes, row in zip(
            sizes[0], sizes[1], blank, in_part, sizes[2], rows.tolist(), strict=True
        ):
            yield MeasuredDocument(num_bytes, num_characters, is_blank, is_in, document_bytes, file, row)


def document_of(data: Dataset, row: dict[str, Any]) -> tuple[str, Document]:
    """Return the text that limits count, and the texts to encode: a document, stripped as in the paper, an item's two, or
    the pieces of a conversation with its question."""
    if data.source.is_conversations:
        return plain_text(row["messages"]), document_of_row(row)
    if isinstance(data, Corpus):
        text = as_text(row, data.name)
        return text, (text.strip(),)
    item = as_example(row, data.name)
    return item.prompt + item.target, (item.prompt, item.target)


def is_excluded(data: Dataset, split: str, text: str) -> bool:
    """Return whether a text is in another part of train than the corpus."""
    part = data.train_part if isinstance(data, Corpus) and split == "train" else None
    return part is not None and not is_in_part(text, part)


def measure_file(
    data: Dataset, source_files: SourceFiles, file: SourceFile, *, on_row: Callable[[], None] = lambda: None
) -> tuple[FileSizes, str]:
    """Read a file and return the sizes of its rows and its SHA-256 (empty for the Hub).

    Args:
        on_row: called before every row; an exception ends the reading.

    Raises:
        ValueError: the file is missing or damaged, or a row does not have the fields of a layout.
    """
    assert isinstance(data.source, Source)
    is_task = isinstance(data, Task)
    rows = FileRows(data.source, file, is_task=is_task)
    flags, sizes = bytearray(), array("q")
    for row in rows:
        on_row()
        split = source_files.split_of(row, file, is_task=is_task)
        text, document = document_of(data, row)
        size = text_size(text)
        flags.append(SPLITS.index(split) | _BLANK * size.is_blank | _OTHER_PART * is_excluded(data, split, text))
        sizes.extend((size.num_bytes, size.num_characters, sum(map(len, encoded(document)))))
    by_row = np.frombuffer(sizes, np.int64).reshape(-1, 3)
    return FileSizes(np.frombuffer(bytes(flags), np.uint8), np.ascontiguousarray(by_row.T)), rows.finish()


def write_sizes(folder: Path, sizes: dict[int, FileSizes]) -> None:
    """Write the sizes of some files, by file number, into a folder."""
    arrays: dict[str, NDArray[Any]] = {}
    for number, one in sizes.items():
        arrays |= {f"{number}.flags": one.flags, f"{number}.sizes": one.sizes}
    save_file(arrays, folder / SIZES_FILE)


def read_sizes(folder: Path, number: int) -> FileSizes:
    """Return the sizes of one file that `write_sizes` wrote into the folder."""
    with safe_open(folder / SIZES_FILE, framework="numpy") as arrays:
        return FileSizes(arrays.get_tensor(f"{number}.flags"), arrays.get_tensor(f"{number}.sizes"))
