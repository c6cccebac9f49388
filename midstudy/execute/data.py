"""Data stages: train a tokenizer, turn a data set into token files, count tokens of a sample."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from midstudy.data.order import derive_key, permute
from midstudy.data.release import tokenizer_file
from midstudy.data.rows import Example, as_example, as_text
from midstudy.data.source import load_rows
from midstudy.data.tokenizer import FILE_NAME, first_bytes, load_tokenizer, save_tokenizer, train_tokenizer
from midstudy.data.tokens import read_split, write_corpus_split, write_task_split
from midstudy.recipe.data import SPLITS, Corpus, ReleasedTokenizer, Task, TokenizedData, Tokenizer
from midstudy.recipe.measure import TokenCounts
from midstudy.similarity.counts import token_counts

COUNTS_FILE = "counts.safetensors"


def _texts(corpus: Corpus, split: str) -> Iterator[str]:
    rows = load_rows(corpus.source, split=split, is_task=False)
    texts = (as_text(row, f"{corpus.name} {split}:{number}") for number, row in enumerate(rows, start=1))
    return first_bytes(texts, corpus.max_bytes)


def _examples(task: Task, split: str) -> Iterable[Example]:
    rows = load_rows(task.source, split=split, is_task=True)
    examples = (as_example(row, f"{task.name} {split}:{number}") for number, row in enumerate(rows, start=1))
    return islice(examples, task.max_items)


def make_tokenizer(recipe: Tokenizer, folder: Path) -> dict[str, Any]:
    """Train the tokenizer on the corpus's train split and save it into `folder`; returns its metrics."""
    texts = list(first_bytes(_texts(recipe.corpus, "train"), recipe.max_bytes))
    save_tokenizer(train_tokenizer(texts, vocab_size=recipe.vocab_size), folder)
    return {"vocab_size": recipe.vocab_size, "train_bytes": sum(len(text.encode("utf-8")) for text in texts)}


def copy_tokenizer(recipe: ReleasedTokenizer, folder: Path) -> dict[str, Any]:
    """Copy the release's tokenizer into `folder`; returns its metrics."""
    shutil.copyfile(tokenizer_file(recipe), folder / FILE_NAME)
    return {"vocab_size": recipe.vocab_size}


def make_tokens(recipe: TokenizedData, tokenizer_folder: Path, folder: Path) -> dict[str, Any]:
    """Write the token files of every split into `folder`; returns tokens and documents of each split.

    Raises:
        ValueError: a split is empty.
    """
    tokenizer = load_tokenizer(tokenizer_folder)
    metrics: dict[str, Any] = {}
    for split in SPLITS:
        if isinstance(recipe.data, Corpus):
            num_tokens = write_corpus_split(tokenizer, _texts(recipe.data, split), folder, split)
        else:
            num_tokens = write_task_split(tokenizer, _examples(recipe.data, split), folder, split)
        written = read_split(folder, split)
        if written.num_documents == 0:
            raise ValueError(f"{recipe.data.name}: the {split} split of {recipe.data.source} is empty.")
        metrics[f"{split}_tokens"] = num_tokens
        metrics[f"{split}_documents"] = written.num_documents
    return metrics


def make_counts(recipe: TokenCounts, tokens_folder: Path, folder: Path) -> dict[str, Any]:
    """Count tokens in a seeded sample of the train split, in two disjoint halves; returns the sample's size.

    The first 512 tokens of a document lie within the paper's first 10,000 characters, so the text is not cut again.
    """
    split = read_split(tokens_folder, "train")
    size = min(recipe.num_documents, split.num_documents)
    order = permute(np.arange(size), split.num_documents, derive_key("counts", recipe.seed))
    documents = [split.document(int(index))[:-1] for index in order]  # without the end of text
    counts = token_counts(
        documents,
        recipe.tokenizer.vocab_size,
        max_tokens_per_document=recipe.tokens_per_document,
        max_documents=recipe.num_documents,
    )
    save_file({"counts": counts}, folder / COUNTS_FILE)
    return {"sampled_documents": size, "sampled_tokens": int(counts.sum())}
