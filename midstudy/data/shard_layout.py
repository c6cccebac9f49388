"""Where the shards of a tokenised data set begin and end in the files of its source, computed from sizes of documents.

Limits cut the documents in the order of reading, and a shard ends with the document that brings it to `shard_bytes`
(`shards.py`). Both are sums over documents, so the layout is that of one process that reads everything in turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from midstudy.data.document_sizes import MeasuredDocument
from midstudy.files.atomic import write_json

LAYOUT_FILE = "layout.json"


@dataclass(frozen=True, kw_only=True)
class PlannedShard:
    """Shard `number` of a split: `num_documents` documents of `text_bytes`, from the one that `row` rows precede in file
    number `file` of the source (`source_files.SourceFiles`)."""

    split: str
    number: int
    file: int
    row: int
    num_documents: int
    text_bytes: int


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The shards of all splits, in the order of the splits; what each split leaves out, as in the record of the token stage;
    and the SHA-256 of each file that was read, by number (empty for the Hub)."""

    shards: tuple[PlannedShard, ...]
    left_out: dict[str, Any]
    digests: dict[int, str]

    def part(self, number: int, num_parts: int) -> tuple[PlannedShard, ...]:
        """Return the shards of part `number` of `num_parts`: consecutive ones, as many in each part to within one."""
        count = len(self.shards)
        return self.shards[number * count // num_parts : (number + 1) * count // num_parts]


def cut_into_shards(documents: Iterable[MeasuredDocument], split: str, shard_bytes: int) -> Iterator[PlannedShard]:
    """Yield the shards of a split's documents, which are those that are left after all limits."""
    first: MeasuredDocument | None = None
    number = num_documents = text_bytes = 0
    for document in documents:
        first = first or document
        num_documents += 1
        text_bytes += document.document_bytes
        if text_bytes >= shard_bytes:
            yield _shard(split, number, first, num_documents, text_bytes)
            first, number, num_documents, text_bytes = None, number + 1, 0, 0
    if first is not None:
        yield _shard(split, number, first, num_documents, text_bytes)


def _shard(split: str, number: int, first: MeasuredDocument, num_documents: int, text_bytes: int) -> PlannedShard:
    return PlannedShard(
        split=split, number=number, file=first.file, row=first.row, num_documents=num_documents, text_bytes=text_bytes
    )


def write_layout(folder: Path, layout: Layout) -> None:
    """Write the layout into a folder."""
    write_json(folder / LAYOUT_FILE, asdict(layout))


def read_layout(folder: Path) -> Layout:
    """Return the layout that `write_layout` wrote into the folder."""
    stated = json.loads((folder / LAYOUT_FILE).read_text("utf-8"))
    return Layout(
        shards=tuple(PlannedShard(**shard) for shard in stated["shards"]),
        left_out=stated["left_out"],
        digests={int(number): digest for number, digest in stated["digests"].items()},
    )
