"""Tokenise a large source in parts: measure files, lay out the shards, write runs of shards, and join them.

The joined stage has the files of one process, byte for byte. Sizes of all documents are known before any shard is written,
so every part writes exactly those shards that one process would write there, whatever limits and splits are (`data/limit.py`
and `data/splits.py` decide on sums and on single rows). A part reads its own files alone. `plan/parts.py` decides into how
many parts a source is divided; `recipe/kinds.py` names the functions that end in `_stage`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from midstudy.data.document_sizes import (
    FileSizes,
    MeasuredDocument,
    document_of,
    is_excluded,
    measure_file,
    read_sizes,
    write_sizes,
)
from midstudy.data.files import content_digest
from midstudy.data.limit import Limited, TextSize
from midstudy.data.shard_layout import Layout, PlannedShard, cut_into_shards, read_layout, write_layout
from midstudy.data.shards import Document, join_split, write_split
from midstudy.data.source import require_revision
from midstudy.data.source_files import FileRows, SourceFiles, files_of
from midstudy.data.split_rows import ChangedTextError, Rows
from midstudy.data.text_tally import logged, text_tally
from midstudy.data.tokenizer import load_tokenizer
from midstudy.data.train_part import InPart
from midstudy.execute.progress import TokenisingProgress
from midstudy.execute.stopped import StoppedError, until_stopped
from midstudy.execute.work import Work
from midstudy.files.errors import StoreError
from midstudy.recipe.data import SPLITS, Corpus, Dataset, Source, Task, TokenizedData, end_of_text_id
from midstudy.recipe.parts import DocumentSizes, ShardLayout, TokensPart
from midstudy.recipe.preparation import Prepared
from midstudy.recipe.stage import stage_id
from midstudy.store.attempt import RESULT_FOLDER


def sizes_stage(recipe: DocumentSizes, work: Work) -> dict[str, Any]:
    """Measure the documents of the recipe's files.

    Raises:
        ChangedTextError: a file differs from that of the plan.
        StoppedError: the job was asked to stop.
    """
    source_files = _files_of(recipe.data)
    if recipe.stop_file > len(source_files.files):
        raise ChangedTextError(f"{recipe.data.source}: its files changed since the plan. Restore the files, or plan again.")

    def poll() -> None:
        if work.should_stop():
            raise StoppedError("stopped while measuring documents; the next attempt measures them from the beginning")

    sizes: dict[int, FileSizes] = {}
    digests: dict[int, str] = {}
    for place, number in enumerate(range(recipe.first_file, recipe.stop_file)):
        file = source_files.files[number]
        sizes[number], digests[number] = measure_file(recipe.data, source_files, file, on_row=poll)
        if recipe.digests and digests[number] != recipe.digests[place]:
            raise ChangedTextError(
                f"{file.name}: changed since the plan: expected sha256 {recipe.digests[place][:12]}, got "
                f"{digests[number][:12]}. Restore the file, or plan again with the changed text."
            )
        print(f"{file.name}: {sizes[number].flags.size:,} rows measured", flush=True)
    write_sizes(work.folder, sizes)
    num_rows = sum(one.flags.size for one in sizes.values())
    return {"digests": {str(number): digest for number, digest in digests.items()}, "num_rows": num_rows}


def layout_stage(recipe: ShardLayout, work: Work) -> dict[str, Any]:
    """Apply the limit of the data set and cut its documents into shards, from the sizes that the parents measured.

    Files that no parent measured are measured here, if the limit reaches them.

    Raises:
        ChangedTextError: the source's files differ from its revision.
        ValueError: as in `make_tokens`.
        StoppedError: the job was asked to stop.
    """
    measured: dict[int, Path] = {}
    digests: dict[int, str] = {}
    for parent in work.store.requested(stage_id(recipe))["parents"]:
        if work.store.has(parent):
            folder = work.unchanged(parent)
            for number, digest in work.store.record(parent).metrics["digests"].items():
                measured[int(number)], digests[int(number)] = folder, digest
    source_files = _files_of(recipe.data)

    @cache
    def measured_here(number: int) -> FileSizes:
        sizes, digests[number] = measure_file(recipe.data, source_files, source_files.files[number])
        return sizes

    def sizes_of(number: int) -> FileSizes:
        return read_sizes(measured[number], number) if number in measured else measured_here(number)

    shards, left_out = lay_out(recipe, source_files, sizes_of, should_stop=work.should_stop)
    source = recipe.data.source
    if isinstance(source, Source) and source.kind == "files":
        read = {Path(source_files.files[number].name): digest for number, digest in digests.items()}
        require_revision(source, content_digest(Path(source.location), read=read))
    write_layout(work.folder, Layout(shards=tuple(shards), left_out=left_out, digests=digests))
    return {"num_shards": len(shards), "text_bytes": sum(shard.text_bytes for shard in shards)}


def lay_out(
    recipe: ShardLayout,
    source_files: SourceFiles,
    sizes_of: Callable[[int], FileSizes],
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[list[PlannedShard], dict[str, Any]]:
    """Return the shards of every split, and what each split leaves out, as metrics of a tally.

    Args:
        sizes_of: returns the sizes of a file by its number; called only for files that the limit reaches.

    Raises:
        ValueError, StoppedError: see `layout_stage`.
    """
    shards: list[PlannedShard] = []
    left_out: dict[str, Any] = {}
    for split in SPLITS:
        documents: Any = (one for number in source_files.holding(split) for one in sizes_of(number).documents(split, number))
        rows = Rows(documents, is_carved=split in source_files.carved)
        read = _limited(recipe.data, split, rows)
        cut = cut_into_shards(
            until_stopped(read, should_stop, doing="laying out shards", then="lays them out from the beginning"),
            split,
            recipe.shard_bytes,
        )
        found = list(cut)
        shards += found
        left_out[split] = logged(text_tally(read, rows, data=recipe.data, split=split, is_empty=not found))
    return shards, left_out


def _limited(data: Dataset, split: str, documents: Iterable[Any]) -> Limited[MeasuredDocument] | InPart[MeasuredDocument]:
    """Return the measured documents up to the data set's limit, and of train those in its part, as `make_tokens` does."""
    is_corpus = isinstance(data, Corpus)
    read: Limited[MeasuredDocument] = Limited(
        documents,
        size_of=lambda one: TextSize(one.num_bytes, one.num_characters, one.is_blank),
        path=f"{'corpora' if is_corpus else 'tasks'}.{data.name}",
        split=split,
        max_bytes=data.max_bytes if isinstance(data, Corpus) else None,
        max_items=data.max_items if isinstance(data, Task) else None,
    )
    if isinstance(data, Corpus) and data.train_part is not None and split == "train":
        return InPart(read, data.train_part, is_in=lambda one: one.is_in_part)
    return read


def tokens_part_stage(recipe: TokensPart, work: Work) -> dict[str, Any]:
    """Tokenise the documents of a part's shards; finished shards of interrupted attempts are reused.

    Raises:
        ChangedTextError: a file differs from the one that was measured.
        StoppedError: the job was asked to stop.
    """
    tokenized = recipe.tokenized
    tokenizer = load_tokenizer(work.unchanged(stage_id(tokenized.tokenizer)))
    layout = read_layout(work.unchanged(stage_id(recipe.layout)))
    progress = TokenisingProgress(tokenized.data.name)
    text_bytes = num_tokens = 0
    for split, group in groupby(layout.part(recipe.number, recipe.num_parts), key=lambda shard: shard.split):
        planned = list(group)
        progress.begin(split)
        documents = until_stopped(
            _documents_from(tokenized.data, layout, planned, work.should_stop),
            work.should_stop,
            doing="tokenising",
            then="reuses the finished shards",
        )
        written = write_split(
            tokenizer,
            documents,
            work.folder,
            split,
            previous=[attempt / RESULT_FOLDER for attempt in work.previous],
            shard_bytes=recipe.shard_bytes,
            end_of_text_id=end_of_text_id(tokenized.tokenizer),
            first_shard=planned[0].number,
            on_reused=progress.on_reused,
            on_tokenised=progress.on_tokenised,
        )
        for _ in documents:
            pass  # if every shard was reused, read to the end of the last file, whose digest is checked there
        if [(one.num_documents, one.text_bytes) for one in written.shards] != [
            (one.num_documents, one.text_bytes) for one in planned
        ]:
            raise ChangedTextError(f"{tokenized.data.name}: shards of {split} do not have the documents that were measured.")
        text_bytes += sum(shard.text_bytes for shard in written.shards)
        num_tokens += written.num_tokens
    return {"text_bytes": text_bytes, "num_tokens": num_tokens, "shards_taken_over": progress.shards_reused}


def _documents_from(
    data: Dataset, layout: Layout, shards: list[PlannedShard], should_stop: Callable[[], bool]
) -> Iterator[Document]:
    """Yield the documents of consecutive shards of a split, then check the digests of the files that were read.

    Raises:
        ChangedTextError: a file differs from the one that was measured.
    """
    assert isinstance(data.source, Source)
    source_files, is_task = _files_of(data), isinstance(data, Task)
    first, left = shards[0], sum(shard.num_documents for shard in shards)
    for number in source_files.holding(first.split):
        if number < first.file or not left:
            continue
        file = source_files.files[number]
        rows = FileRows(data.source, file, is_task=is_task)
        for place, row in enumerate(until_stopped(rows, should_stop, doing="reading", then="reuses the finished shards")):
            if number == first.file and place < first.row:
                continue
            if source_files.split_of(row, file, is_task=is_task) != first.split:
                continue
            text, document = document_of(data, row)
            if is_excluded(data, first.split, text):
                continue
            yield document
            left -= 1
            if not left:
                break
        if (digest := rows.finish()) != layout.digests[number]:
            raise ChangedTextError(
                f"{file.name}: changed since its documents were measured: expected sha256 "
                f"{layout.digests[number][:12]}, got {digest[:12]}. Restore the file, or plan again with the changed text."
            )


def join_parts(recipe: TokenizedData, tokenizer_folder: Path, work: Work) -> dict[str, Any] | None:
    """Join the finished parts of a token stage and return its metrics; `None` if it was planned without parts.

    A stage whose parts are not all finished (another study that shares the store may have planned other ones) is made
    without them.

    Raises:
        StoreError: a part is damaged.
    """
    store = work.store
    tokenizer_id, *parts = store.requested(stage_id(recipe))["parents"]
    if isinstance(recipe.data.source, Prepared):  # whose stage is the other parent
        return None
    if not parts or not all(store.has(part) for part in parts):
        return None
    records = [store.record(part) for part in parts]
    layout_id = next(parent for parent in records[0].parents if parent != tokenizer_id)
    layout, shard_bytes = read_layout(work.unchanged(layout_id)), records[0].recipe["shard_bytes"]
    metrics: dict[str, Any] = {"left_out": layout.left_out}
    for split in SPLITS:
        try:
            joined = join_split(
                load_tokenizer(tokenizer_folder),
                [store.published_folder(part) for part in parts],
                work.folder,
                split,
                shard_bytes=shard_bytes,
                end_of_text_id=end_of_text_id(recipe.tokenizer),
            )
        except ValueError as error:
            raise StoreError(str(error)) from error
        metrics[f"{split}_tokens"] = joined.num_tokens
        metrics[f"{split}_documents"] = joined.num_documents
    metrics["shards_taken_over"] = sum(record.metrics["shards_taken_over"] for record in records)
    return metrics


def _files_of(data: Dataset) -> SourceFiles:
    found = files_of(data)
    assert found is not None, "a source without files is not planned in parts"
    return found
