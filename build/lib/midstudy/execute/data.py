"""Data stages: train a tokenizer, turn a data set into token files, count tokens of a sample.

The functions that end in `_stage` are the makers that `recipe/kinds.py` names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from midstudy.data.limit import Limited
from midstudy.data.order import derive_key, permute
from midstudy.data.release import tokenizer_bytes
from midstudy.data.rows import Example, as_example, as_text
from midstudy.data.shards import SHARD_BYTES, Document, write_split
from midstudy.data.source import Rows, load_rows
from midstudy.data.tally import Tally
from midstudy.data.tokenizer import FILE_NAME, load_tokenizer, save_tokenizer, train_tokenizer
from midstudy.data.tokens import read_split
from midstudy.data.wheels import removed_for_overlap
from midstudy.execute.progress import TokenisingProgress
from midstudy.execute.stopped import until_told
from midstudy.execute.work import Work
from midstudy.recipe.data import SPLITS, Corpus, Dataset, ReleasedTokenizer, Task, TokenizedData, Tokenizer
from midstudy.recipe.measure import TokenCounts
from midstudy.recipe.stage import stage_id
from midstudy.similarity.counts import token_counts
from midstudy.store.attempt import RESULT_FOLDER

COUNTS_FILE = "counts.safetensors"


def tokenizer_stage(recipe: Tokenizer, work: Work) -> dict[str, Any]:
    return make_tokenizer(recipe, work.folder, should_stop=work.should_stop)


def released_tokenizer_stage(recipe: ReleasedTokenizer, work: Work) -> dict[str, Any]:
    return copy_tokenizer(recipe, work.folder)


def tokens_stage(recipe: TokenizedData, work: Work) -> dict[str, Any]:
    tokenizer = work.unchanged(stage_id(recipe.tokenizer))
    former = [attempt / RESULT_FOLDER for attempt in work.former]
    return make_tokens(recipe, tokenizer, work.folder, former=former, should_stop=work.should_stop)


def counts_stage(recipe: TokenCounts, work: Work) -> dict[str, Any]:
    tokens = work.unchanged(stage_id(recipe.tokenized))
    return make_counts(recipe, tokens, work.folder, should_stop=work.should_stop)


def _texts(corpus: Corpus, split: str, rows: Rows, should_stop: Callable[[], bool]) -> Limited[str]:
    """The documents of a split, up to the corpus's `max_bytes`."""
    texts = (as_text(row, f"{corpus.name} {split}:{number}") for number, row in enumerate(rows, start=1))
    path = f"corpora.{corpus.name}"
    return Limited(texts, text_of=str, path=path, split=split, max_bytes=corpus.max_bytes, should_stop=should_stop)


def _examples(task: Task, split: str, rows: Rows, should_stop: Callable[[], bool]) -> Limited[Example]:
    examples = (as_example(row, f"{task.name} {split}:{number}") for number, row in enumerate(rows, start=1))
    return Limited(
        examples,
        text_of=lambda item: item.prompt + item.target,
        path=f"tasks.{task.name}",
        split=split,
        max_items=task.max_items,
        should_stop=should_stop,
    )


def _documents(
    data: Dataset, split: str, rows: Rows, should_stop: Callable[[], bool]
) -> tuple[Limited[Any], Iterator[Document]]:
    """What is read of a split, and of that the texts to encode: documents stripped as the paper's, items as prompt and
    target."""
    if isinstance(data, Corpus):
        texts = _texts(data, split, rows, should_stop)
        return texts, ((text.strip(),) for text in texts)
    examples = _examples(data, split, rows, should_stop)
    return examples, ((item.prompt, item.target) for item in examples)


def _tally(read: Limited[Any], *, data: Dataset, split: str, use: str) -> Tally:
    is_corpus = isinstance(data, Corpus)
    num_blank = read.num_blank if is_corpus else 0  # a task refuses an empty target
    return Tally(
        data=data.name,
        split=split,
        use=use,
        unit="documents" if is_corpus else "items",
        used=read.num_items - num_blank,
        left_out={**read.left_out, **({"empty": num_blank} if num_blank else {})},
        is_whole=read.is_whole,
    )


def _preparation(data: Dataset) -> dict[str, Any]:
    """What the pinned wheels leave out before anything is read, for the record; other sources are read as they are."""
    if data.source.kind != "wheels":
        return {}
    num_kept, num_removed = removed_for_overlap(data.source.part)
    unit, left_out = "documents" if isinstance(data, Corpus) else "items", {"overlap": num_removed} if num_removed else {}
    tally = Tally(data=data.name, split="all", use="preparation", unit=unit, used=num_kept, left_out=left_out)
    return {"all": _said(tally)}


def _said(tally: Tally) -> dict[str, Any]:
    """The numbers for the record; what is left out is told in the log."""
    if tally.left_out:
        print(tally.sentence, flush=True)
    return tally.as_metrics()


def _read_on(rows: Rows, should_stop: Callable[[], bool], *, then: str) -> None:
    """Read what is left of the text, behind the first documents: only all of it has the digest that the plan names."""
    for _ in until_told(rows.rest(), should_stop, doing="the rest of the text was read", then=then):
        pass


def make_tokenizer(recipe: Tokenizer, folder: Path, *, should_stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Train the tokenizer on the corpus's train split and save it into `folder`; returns its metrics.

    Raises:
        ChangedTextError: the text is not that of the plan.
        StoppedError: `should_stop` said so while the text was read.
    """
    rows = load_rows(recipe.corpus.source, split="train", is_task=False)
    train_bytes = 0
    read = _texts(recipe.corpus, "train", rows, should_stop)
    texts = Limited(read, text_of=str, path="tokenizer", split="train", max_bytes=recipe.max_bytes, should_stop=should_stop)

    def counted() -> Iterator[str]:
        nonlocal train_bytes
        for text in until_told(texts, should_stop, doing="a tokenizer was trained", then="trains it from the beginning"):
            train_bytes += len(text.encode("utf-8"))
            yield text

    tokenizer = train_tokenizer(counted(), vocab_size=recipe.vocab_size)
    _read_on(rows, should_stop, then="trains it from the beginning")
    save_tokenizer(tokenizer, folder)
    tally = _tally(texts, data=recipe.corpus, split="train", use="tokenizer")
    return {"vocab_size": recipe.vocab_size, "train_bytes": train_bytes, "left_out": {"train": _said(tally)}}


def copy_tokenizer(recipe: ReleasedTokenizer, folder: Path) -> dict[str, Any]:
    """Copy the release's tokenizer into `folder`; returns its metrics."""
    (folder / FILE_NAME).write_bytes(tokenizer_bytes(recipe))
    return {"vocab_size": recipe.vocab_size}


def make_tokens(
    recipe: TokenizedData,
    tokenizer_folder: Path,
    folder: Path,
    *,
    former: Sequence[Path] = (),
    should_stop: Callable[[], bool] = lambda: False,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Write the shards of every split into `folder`; returns tokens and documents of each split.

    Args:
        former: where interrupted attempts wrote theirs, newest first; finished shards are taken over.
        should_stop: polled at every document.
        shard_bytes: text of a shard.

    Raises:
        ChangedTextError: the text is not that of the plan: the shards, and those of former attempts, may be of other text.
        StoppedError: `should_stop` said so.
        ValueError: a split is empty that is not carved from train, or almost nothing of it is left (`Limited`,
            `Tally.require_enough`).
    """
    tokenizer = load_tokenizer(tokenizer_folder)
    progress = TokenisingProgress(recipe.data.name)
    metrics: dict[str, Any] = {"left_out": _preparation(recipe.data)}
    for split in SPLITS:
        progress.begin(split)
        rows = load_rows(recipe.data.source, split=split, is_task=isinstance(recipe.data, Task), on_read=progress.on_read)
        read, texts = _documents(recipe.data, split, rows, should_stop)
        documents = until_told(
            texts,
            should_stop,
            doing="tokenising",
            then="takes over the shards that are finished",
        )
        written = write_split(
            tokenizer,
            documents,
            folder,
            split,
            former=former,
            shard_bytes=shard_bytes,
            on_taken_over=progress.on_taken_over,
            on_tokenised=progress.on_tokenised,
        )
        for _ in documents:
            pass  # where every shard was taken over, the end has not been read, nor what a limit leaves out counted
        _read_on(rows, should_stop, then="takes over the shards that are finished")
        if not written.shards and not (rows.is_carved and rows.num_rows == 0):  # what reads it was refused by the plan
            raise ValueError(f"{recipe.data.name}: the {split} split of {recipe.data.source} is empty.")
        tally = _tally(read, data=recipe.data, split=split, use="text")
        tally.require_enough()
        metrics["left_out"][split] = _said(tally)
        metrics[f"{split}_tokens"] = written.num_tokens
        metrics[f"{split}_documents"] = written.num_documents
    metrics["shards_taken_over"] = progress.shards_taken_over
    return metrics


def make_counts(
    recipe: TokenCounts, tokens_folder: Path, folder: Path, *, should_stop: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """Count tokens in a seeded sample of the train split, in two disjoint halves; returns the sample's size.

    The first 512 tokens of a document lie within the paper's first 10,000 characters, so the text is not cut again.

    Raises:
        StoppedError: `should_stop`, asked at every document, said so.
    """
    split = read_split(tokens_folder, "train")
    size = min(recipe.num_documents, split.num_documents)
    order = permute(np.arange(size), split.num_documents, derive_key("counts", recipe.seed))
    num_sampled = 0

    def sampled() -> Iterator[NDArray[np.uint16]]:
        nonlocal num_sampled
        for index in order:
            document = split.document(int(index))[:-1]  # without the end of text
            num_sampled += len(document)
            yield document

    counts = token_counts(
        until_told(sampled(), should_stop, doing="counting tokens", then="counts from the beginning"),
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
    return {"sampled_documents": size, "sampled_tokens": num_counted, "left_out": {"train": _said(tally)}}
