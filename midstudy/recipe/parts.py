"""Recipes of the parts in which a large source is tokenised: sizes of documents, where shards begin, a run of shards.

Parts are how a `TokenizedData` is computed, not what it is: the token stage has the same id, files and bytes with any number
of parts, or with none (`plan/parts.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from midstudy.recipe.canonical import label_field
from midstudy.recipe.data import Dataset, TokenizedData


@dataclass(frozen=True, kw_only=True)
class DocumentSizes:
    """The size and the split of every document in some files of a data set, whatever its limit.

    The files are numbers `first_file` to `stop_file - 1` of the source (`data/source_files.py`). `data` has no limit, so
    that corpora with different limits share the sizes. `digests` are the SHA-256 of the files, which follow from the
    source's revision; empty for the Hub, whose commit fixes the files.
    """

    data: Dataset
    first_file: int
    stop_file: int
    digests: tuple[str, ...] = label_field(default=())


@dataclass(frozen=True, kw_only=True)
class ShardLayout:
    """Where each shard of a tokenised data set begins and ends in the source's files, which no tokenizer affects."""

    data: Dataset
    shard_bytes: int


@dataclass(frozen=True, kw_only=True)
class TokensPart:
    """Part `number`, from 0, of `num_parts`: a run of consecutive shards of a tokenised data set."""

    tokenized: TokenizedData
    shard_bytes: int
    number: int
    num_parts: int

    @property
    def layout(self) -> ShardLayout:
        """Where the shards begin and end."""
        return ShardLayout(data=self.tokenized.data, shard_bytes=self.shard_bytes)
