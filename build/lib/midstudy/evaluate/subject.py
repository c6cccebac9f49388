"""What an evaluator is given: a state's model, a tokenised split, its tokenizer, and where files of items go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import tokenizers

from midstudy.data.batch import Batch
from midstudy.data.tokens import TokenizedSplit
from midstudy.model.pythia import Pythia


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A state on a split.

    `model` lends the state's model, which is read when the context is entered. `until_told` hands on batches and raises when
    the job is told to stop. `tokenizer` reads the tokenizer of the split. Files that are written into `folder` are published
    beside the record.
    """

    model: Callable[[], AbstractContextManager[Pythia]]
    split: TokenizedSplit
    until_told: Callable[[Iterable[Batch]], Iterator[Batch]]
    tokenizer: Callable[[], tokenizers.Tokenizer]
    folder: Path
