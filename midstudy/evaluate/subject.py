"""The input of an evaluator: a state's model, a tokenised split, its tokenizer, and the folder for item files."""

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
    """A state and a split.

    `model` is a context that borrows the state's model, which is loaded on entry. `until_stopped` passes batches on, and
    raises when the job is asked to stop. `tokenizer` loads the tokenizer of the split. Files written into `folder` are
    published next to the record.
    """

    model: Callable[[], AbstractContextManager[Pythia]]
    split: TokenizedSplit
    until_stopped: Callable[[Iterable[Batch]], Iterator[Batch]]
    tokenizer: Callable[[], tokenizers.Tokenizer]
    folder: Path
