"""The input of an evaluator: the weights of one state or two, a tokenised split, its tokenizer, and the folder for files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from midstudy.data.tokens import TokenizedSplit
from midstudy.model.language_model import LanguageModel
from midstudy.train.precision import Weights


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A state and a split.

    `weights` is a context that borrows the state's weights and model, which are loaded on entry; `other_weights` does so for
    the state that it is compared with, and is `None` if there is none. `until_stopped` passes batches on, or other parts of
    the work, and raises when the job is asked to stop. `tokenizer` loads the tokenizer of the split. Files written into
    `folder` are published next to the record.
    """

    weights: Callable[[], AbstractContextManager[Weights]]
    other_weights: Callable[[], AbstractContextManager[Weights]] | None = None
    split: TokenizedSplit
    until_stopped: Callable[[Iterable[Any]], Iterator[Any]]
    tokenizer: Callable[[], tokenizers.Tokenizer]
    folder: Path

    @contextmanager
    def model(self) -> Iterator[LanguageModel]:
        """Borrow the state's model."""
        with self.weights() as weights:
            yield weights.model
