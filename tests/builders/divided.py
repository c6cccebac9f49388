"""Data sets in many files, tokenised in parts and in one process: what tests of parts compare."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow
from pyarrow import parquet

from midstudy.data.files import content_digest
from midstudy.data.shards import read_index
from midstudy.execute.data import make_tokens
from midstudy.execute.stage import execute_stage
from midstudy.plan import parts
from midstudy.plan.parts import Divided, divide
from midstudy.recipe.data import Corpus, Source, TokenizedData, Tokenizer
from midstudy.recipe.stage import Stage, stage_id
from midstudy.store.store import Store

Row = Mapping[str, Any]


def write_file(path: Path, rows: Sequence[Row]) -> None:
    """Write rows in the format that the name ends in: JSONL, gzipped JSONL or Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        file = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file, row_group_size=3)
        path.write_bytes(file.getvalue())
        return
    text = "".join(json.dumps(row) + "\n" for row in rows).encode("utf-8")
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def source_of(folder: Path) -> Source:
    return Source(kind="files", part="", revision=content_digest(folder), location=str(folder))


def finished_tokenizer(root: Path, text: Path) -> tuple[Store, Tokenizer]:
    """Return a new store with a finished tokenizer of the text in a folder."""
    store = Store.open(root, create=True)
    recipe = Tokenizer(corpus=Corpus(name="letters", source=source_of(text)), vocab_size=300, max_bytes=100_000)
    make(store, tokenizer_stage(recipe))
    return store, recipe


def tokenizer_stage(recipe: Tokenizer) -> Stage:
    return Stage(id=stage_id(recipe), label="tokenizer", recipe=recipe, parents=(), role="data")


def make(store: Store, stage: Stage) -> None:
    store.request(stage)
    execute_stage(store, stage.id, start_from=None, keeps_optimizer=False, should_stop=lambda: False)


@contextmanager
def small_parts(*, part_bytes: int, shard_bytes: int) -> Iterator[None]:
    """Divide data sets that are small enough for tests."""
    with mock.patch.object(parts, "PART_BYTES", part_bytes), mock.patch.object(parts, "SHARD_BYTES", shard_bytes):
        yield


def divided(data: TokenizedData, *, num_parts: int, shard_bytes: int) -> Divided | None:
    """Return the data set in `num_parts` parts, or as many as it has files."""
    with small_parts(part_bytes=1_000, shard_bytes=shard_bytes):
        return divide(data, stage_id(data.tokenizer), text_bytes=1_000 * num_parts, bytes_per_s=1e6)


def joined_stage(data: TokenizedData, made: Divided) -> Stage:
    """Return the token stage that joins the parts."""
    parents = (stage_id(data.tokenizer), *made.part_ids)
    return Stage(
        id=stage_id(data), label="tokens", recipe=data, parents=parents, cost_s=1.0, role="data", data=data.data.name
    )


def in_one_process(store: Store, data: TokenizedData, folder: Path, *, shard_bytes: int) -> dict[str, Any]:
    """Tokenise without parts, into a folder; return the metrics."""
    folder.mkdir()
    return make_tokens(data, store.published_folder(stage_id(data.tokenizer)), folder, shard_bytes=shard_bytes)


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of token data in a folder, by name."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name not in ("record.json", "metrics.jsonl")
    }


def num_finished(store: Store, part_id: str) -> int:
    """Return how many shards of train an unfinished part has finished, which its next attempt reuses."""
    indexes = (read_index(attempt / "result", "train") for attempt in store.previous_attempts(part_id))
    return max((len(index.shards) for index in indexes if index is not None), default=0)
