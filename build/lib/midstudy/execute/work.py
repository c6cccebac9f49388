"""What the maker of a stage is given: the store, the attempt, and how the numbers are computed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midstudy.data.tokens import TokenizedSplit, read_split
from midstudy.files.errors import StoreError
from midstudy.recipe.canonical import other_versions
from midstudy.recipe.data import Dataset, ReleasedTokenizer, TokenizedData, Tokenizer
from midstudy.recipe.stage import stage_id
from midstudy.store.attempt import Attempt
from midstudy.store.store import Store
from midstudy.train.checkpoint import CheckpointError
from midstudy.train.placement import Placement
from midstudy.train.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class RankWork:
    """What every rank of a job has. `should_stop` is polled during the work."""

    store: Store
    should_stop: Callable[[], bool]
    placement: Placement
    ranks: Ranks

    def finished(self, identity: str) -> Path:
        """The published folder of a stage.

        Raises:
            StoreError: the stage is not finished.
        """
        if not self.store.has(identity):
            raise StoreError(f"stage {identity}: needed and not finished; run the study again.")
        return self.store.published_folder(identity)

    def unchanged(self, identity: str) -> Path:
        """The published folder of a data stage, its files read through once a job: damaged or exchanged ones are never used.

        Raises:
            StoreError: the stage is not finished, or a file is not the one that was published.
        """
        folder = self.finished(identity)
        _check_files(self.store.root, identity)
        return folder

    def split(self, data: Dataset, tokenizer: Tokenizer | ReleasedTokenizer, split: str) -> TokenizedSplit:
        """A tokenised split, memory-mapped.

        Raises:
            StoreError: as `unchanged`.
        """
        return read_split(self.unchanged(stage_id(TokenizedData(data=data, tokenizer=tokenizer))), split)


@dataclass(frozen=True, kw_only=True)
class Work(RankWork):
    """What the first rank, which publishes the stage, has besides.

    Files for publication go into `folder`. `former` are the folders of interrupted attempts, newest first. `start_from` is
    the id of the kept state that training continues from; `keeps_optimizer` asks for the optimizer's state beside the
    weights.
    """

    attempt: Attempt
    former: tuple[Path, ...]
    start_from: str | None
    keeps_optimizer: bool

    @property
    def folder(self) -> Path:
        return self.attempt.result


@functools.cache
def _check_files(root: Path, identity: str) -> None:
    Store(root).require_unchanged(identity)


@contextlib.contextmanager
def damage_remedied(*published: Path | None) -> Iterator[None]:
    """Turn a `CheckpointError` about these published states into a `StoreError` with a remedy.

    Raises:
        StoreError: a checkpoint is damaged; the message says what to do.
    """
    try:
        yield
    except CheckpointError as error:
        damaged = next((one for one in published if one is not None and str(one) in str(error)), None)
        remedy = f" Remove {damaged} and run the study again, which makes that state again." if damaged else ""
        raise StoreError(f"{error}{remedy}") from error


def require_these_numbers(recipe: Any, written_in: Path) -> None:
    """Refuse a recipe whose id stands for other numbers: midstudy may have been updated while a job was waiting.

    Raises:
        StoreError: a numerical component has another version by now.
    """
    for name, wanted, ours in other_versions(recipe):
        raise StoreError(
            f"{written_in}: planned for version {wanted} of {name}; this midstudy computes version {ours}, whose numbers "
            "differ. Plan the study again, or finish it with the midstudy that planned it."
        )
