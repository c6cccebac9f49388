"""Data stages: train a tokenizer, tokenise a data set, count tokens of a sample.

`recipe/kinds.py` names the functions that end in `_stage`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from midstudy.data.builtin import removed_for_overlap
from midstudy.data.byte_shares import interleaved
from midstudy.data.conversation import plain_text
from midstudy.data.limit import Limited, text_size
from midstudy.data.order import derive_key, permute
from midstudy.data.question import document_of_row
from midstudy.data.release import tokenizer_bytes
from midstudy.data.rows import Example, as_example, as_text
from midstudy.data.shards import SHARD_BYTES, Document, write_split
from midstudy.data.split_rows import Rows
from midstudy.data.tally import Tally
from midstudy.data.text_tally import logged, tally_of_read, text_tally
from midstudy.data.tokenizer import FILE_NAME, load_tokenizer, save_tokenizer, train_tokenizer, with_special_tokens
from midstudy.data.tokens import read_split
from midstudy.data.train_part import InPart, is_in_part
from midstudy.execute.parts import join_parts
from midstudy.execute.progress import TokenisingProgress
from midstudy.execute.rows import ReadRows, read_rest, rows_of, without_preparations
from midstudy.execute.stopped import until_stopped
from midstudy.execute.work import Work
from midstudy.recipe.data import (
    SPLITS,
    Corpus,
    Dataset,
    ReleasedTokenizer,
    Task,
    TokenizedData,
    Tokenizer,
    end_of_text_id,
    sources_of,
)
from midstudy.recipe.measure import TokenCounts
from midstudy.recipe.stage import stage_id
from midstudy.similarity.counts import token_counts
from midstudy.store.attempt import RESULT_FOLDER

COUNTS_FILE = "counts.safetensors"


def tokenizer_stage(recipe: Tokenizer, work: Work) -> dict[str, Any]:
    return make_tokenizer(recipe, work.folder, should_stop=work.should_stop, read_rows=rows_of(work))


def released_tokenizer_stage(recipe: ReleasedTokenizer, work: Work) -> dict[str, Any]:
    return copy_tokenizer(recipe, work.folder)


def tokens_stage(recipe: TokenizedData, work: Work) -> dict[str, Any]:
    tokenizer = work.unchanged(stage_id(recipe.tokenizer))
    if (joined := join_parts(recipe, tokenizer, work)) is not None:
        return joined
    previous = [attempt / RESULT_FOLDER for attempt in work.previous]
    return make_tokens(
        recipe, tokenizer, work.folder, previous=previous, should_stop=work.should_stop, read_rows=rows_of(work)
    )


def counts_stage(recipe: TokenCounts, work: Work) -> dict[str, Any]:
    tokens = work.unchanged(stage_id(recipe.tokenized))
    return make_counts(recipe, tokens, work.folder, should_stop=work.should_stop)


def _texts(corpus: Corpus, split: str, rows: Rows, should_stop: Callable[[], bool]) -> Limited[str] | InPart[str]:
    """Return the documents of a split: up to the corpus's `max_bytes`, and of train those in its part."""
    texts = (as_text(row, f"{corpus.name} {split}:{number}") for number, row in enumerate(rows, start=1))
    path = f"corpora.{corpus.name}"
    read = Limited(texts, size_of=text_size, path=path, split=split, max_bytes=corpus.max_bytes, should_stop=should_stop)
    if corpus.train_part is None or split != "train":
        return read
    return InPart(read, corpus.train_part, is_in=partial(is_in_part, part=corpus.train_part))


def _examples(task: Task, split: str, rows: Rows, should_stop: Callable[[], bool]) -> Limited[Example]:
    examples = (as_example(row, f"{task.name} {split}:{number}") for number, row in enumerate(rows, start=1))
    return Limited(
        examples,
        size_of=lambda item: text_size(item.prompt + item.target),
        path=f"tasks.{task.name}",
        split=split,
        max_items=task.max_items,
        should_stop=should_stop,
    )


def _conversations(data: Dataset, split: str, rows: Rows, should_stop: Callable[[], bool]) -> Limited[dict[str, Any]]:
    """Return the rows of conversations of a split up to the limit: in bytes of their text, or in items of a task."""
    is_corpus = isinstance(data, Corpus)
    return Limited(
        rows,
        size_of=lambda row: text_size(plain_text(row["messages"])),
        path=f"{'corpora' if is_corpus else 'tasks'}.{data.name}",
        split=split,
        max_bytes=data.max_bytes if isinstance(data, Corpus) else None,
        max_items=None if isinstance(data, Corpus) else data.max_items,
        should_stop=should_stop,
    )


def _documents(
    data: Dataset, split: str, rows: Rows, should_stop: Callable[[], bool]
) -> tuple[Limited[Any] | InPart[Any], Iterator[Document]]:
    """Return the limited rows of a split, and the texts to encode: documents, stripped as in the paper, prompt and target of
    items, or the pieces of conversations with their questions."""
    if data.source.is_conversations:
        conversations = _conversations(data, split, rows, should_stop)
        return conversations, map(document_of_row, conversations)
    if isinstance(data, Corpus):
        texts = _texts(data, split, rows, should_stop)
        return texts, ((text.strip(),) for text in texts)
    examples = _examples(data, split, rows, should_stop)
    return examples, ((item.prompt, item.target) for item in examples)


def _preparation(data: Dataset) -> dict[str, Any]:
    """Return what the preparation of `wheels` left out, for the record; other sources have no preparation."""
    prepared = [removed_for_overlap(source.part) for source in sources_of(data.source) if source.kind == "wheels"]
    if not prepared:
        return {}
    num_kept, num_removed = (sum(numbers) for numbers in zip(*prepared, strict=True))
    unit, left_out = "documents" if isinstance(data, Corpus) else "items", {"overlap": num_removed} if num_removed else {}
    tally = Tally(data=data.name, split="all", use="preparation", unit=unit, used=num_kept, left_out=left_out)
    return {"all": logged(tally)}


def make_tokenizer(
    recipe: Tokenizer,
    folder: Path,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    read_rows: ReadRows = without_preparations,
) -> dict[str, Any]:
    """Train the tokenizer on the train splits of its corpora and save it into `folder`; return its metrics.

    Raises:
        ChangedTextError: the text differs from that of the plan.
        StoppedError: `should_stop` returned true while the text was read.
        ValueError: one of several corpora has less text than its share, or a file or field is missing.
    """
    rows = {corpus: read_rows(corpus.source, split="train", is_task=False) for corpus in recipe.corpora}
    texts = {corpus: _share_of(recipe, corpus, rows[corpus], should_stop) for corpus in recipe.corpora}
    documents = interleaved(texts, max_bytes=recipe.byte_limits) if recipe.others else texts[recipe.corpus]
    then = "trains it from the beginning"
    tokenizer = train_tokenizer(
        until_stopped(documents, should_stop, doing="a tokenizer was trained", then=then),
        vocab_size=recipe.vocab_size,
        special_tokens=recipe.special_tokens,
    )
    for unread in rows.values():
        read_rest(unread, should_stop, then=then)
    save_tokenizer(tokenizer, folder)
    tallies = {
        corpus: tally_of_read(text, rows[corpus], data=corpus, split="train", use="tokenizer")
        for corpus, text in texts.items()
    }
    metrics = {"vocab_size": recipe.vocab_size, "train_bytes": sum(text.num_bytes for text in texts.values())}
    if not recipe.others:
        return {**metrics, "left_out": {"train": logged(tallies[recipe.corpus])}}
    return {
        **metrics,
        "train_bytes_by_corpus": {corpus.name: text.num_bytes for corpus, text in texts.items()},
        "left_out": {f"train {corpus.name}": logged(tally) for corpus, tally in tallies.items()},
    }


def _share_of(recipe: Tokenizer, corpus: Corpus, rows: Rows, should_stop: Callable[[], bool]) -> Limited[str]:
    """Return the train text of a corpus up to its share of the tokenizer's bytes."""
    # The limit of one of several corpora is at least its share; read up to the share, it ends within a document of it.
    is_implied = recipe.others and not corpus.train_part
    read = _texts(replace(corpus, max_bytes=None) if is_implied else corpus, "train", rows, should_stop)
    path = f"tokenizer.{corpus.name}" if recipe.others else "tokenizer"
    max_bytes = recipe.byte_limits[corpus]
    return Limited(read, size_of=text_size, path=path, split="train", max_bytes=max_bytes, should_stop=should_stop)


def copy_tokenizer(recipe: ReleasedTokenizer, folder: Path) -> dict[str, Any]:
    """Copy the release's tokenizer into `folder`, with the special tokens that are added to it; return its metrics."""
    content = tokenizer_bytes(recipe)
    if recipe.special_tokens:
        save_tokenizer(with_special_tokens(content, recipe.special_tokens), folder)
    else:
        (folder / FILE_NAME).write_bytes(content)
    return {"vocab_size": recipe.vocab_size}


def make_tokens(
    recipe: TokenizedData,
    tokenizer_folder: Path,
    folder: Path,
    *,
    previous: Sequence[Path] = (),
    should_stop: Callable[[], bool] = lambda: False,
    shard_bytes: int = SHARD_BYTES,
    read_rows: ReadRows = without_preparations,
) -> dict[str, Any]:
    """Write the shards of every split into `folder`; return the number of tokens and documents of each split.

    Args:
        previous: result folders of interrupted attempts, newest first; their finished shards are reused.
        should_stop: polled at every document.
        shard_bytes: text bytes of a shard.

    Raises:
        ChangedTextError: the text differs from that of the plan; the shards of this and previous attempts may have other
            text.
        StoppedError: `should_stop` returned true.
        ValueError: a split that is not carved from train is empty, or a part of train, or almost nothing of it is left
            (`Limited`, `Tally.require_enough`).
    """
    tokenizer = load_tokenizer(tokenizer_folder)
    progress = TokenisingProgress(recipe.data.name)
    metrics: dict[str, Any] = {"left_out": _preparation(recipe.data)}
    for split in SPLITS:
        progress.begin(split)
        rows = read_rows(recipe.data.source, split=split, is_task=isinstance(recipe.data, Task), on_read=progress.on_read)
        read, texts = _documents(recipe.data, split, rows, should_stop)
        documents = until_stopped(
            texts,
            should_stop,
            doing="tokenising",
            then="reuses the finished shards",
        )
        written = write_split(
            tokenizer,
            documents,
            folder,
            split,
            previous=previous,
            shard_bytes=shard_bytes,
            end_of_text_id=end_of_text_id(recipe.tokenizer),
            on_reused=progress.on_reused,
            on_tokenised=progress.on_tokenised,
        )
        for _ in documents:
            pass  # if every shard was reused, read to the end, and count what a limit leaves out
        read_rest(rows, should_stop, then="reuses the finished shards")
        tally = text_tally(read, rows, data=recipe.data, split=split, is_empty=not written.shards)
        metrics["left_out"][split] = logged(tally)
        metrics[f"{split}_tokens"] = written.num_tokens
        metrics[f"{split}_documents"] = written.num_documents
    metrics["shards_taken_over"] = progress.shards_reused
    return metrics


def make_counts(
    recipe: TokenCounts, tokens_folder: Path, folder: Path, *, should_stop: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """Count tokens in a seeded sample of the train split, in two disjoint halves; return the sample's size.

    The first 512 tokens of a document are within the paper's first 10,000 characters, so the text is not truncated again.

    Args:
        should_stop: polled at every document.

    Raises:
        StoppedError: `should_stop` returned true.
    """
    split = read_split(tokens_folder, "train")
    size = min(recipe.num_documents, split.num_documents)
    order = permute(np.arange(size), split.num_documents, derive_key("counts", recipe.seed))
    num_sampled = 0

    def sampled() -> Iterator[NDArray[Any]]:
        nonlocal num_sampled
        for index in order:
            document = split.document(int(index))[:-1]  # without its end-of-text token
            num_sampled += len(document)
            yield document

    counts = token_counts(
        until_stopped(sampled(), should_stop, doing="counting tokens", then="counts from the beginning"),
        recipe.tokenizer.vocab_size,
        max_tokens_per_document=recipe.tokens_per_document,
        max_documents=recipe.num_documents,
    )
    save_file({"counts": counts}, folder / COUNTS_FILE)
    num_counted, num_tokens = int(counts.sum()), len(split.tokens) - split.num_documents
    left_out = {"past_document_limit": num_sampled - num_counted, "outside_sample": num_tokens - num_sampled}
    tally = Tally(
        data=recipe.data.name,
        split="train",
        use="similarity",
        unit="tokens",
        used=num_counted,
        left_out={reason: number for reason, number in left_out.items() if number},
        limit=recipe.tokens_per_document,
    )
    return {"sampled_documents": size, "sampled_tokens": num_counted, "left_out": {"train": logged(tally)}}
