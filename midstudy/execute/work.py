"""The input of a stage function: the store, the attempt and the placement."""

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
from midstudy.recipe.stage import stage_id as id_of_recipe
from midstudy.store.attempt import Attempt
from midstudy.store.store import Store
from midstudy.train.checkpoint import CheckpointError
from midstudy.train.placement import Placement
from midstudy.train.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class RankWork:
    """The input of every rank of a job. `should_stop` is polled during the work."""

    store: Store
    should_stop: Callable[[], bool]
    placement: Placement
    ranks: Ranks

    def finished(self, stage_id: str) -> Path:
        """Return the published folder of a stage.

        Raises:
            StoreError: the stage is not finished.
        """
        if not self.store.has(stage_id):
            raise StoreError(f"stage {stage_id}: required, but not finished. Run the study again.")
        return self.store.published_folder(stage_id)

    def unchanged(self, stage_id: str) -> Path:
        """Return the published folder of a data stage, after verifying its files (once per job).

        Raises:
            StoreError: the stage is not finished, or a file differs from the one that was published.
        """
        folder = self.finished(stage_id)
        _check_files(self.store.root, stage_id)
        return folder

    def split(self, data: Dataset, tokenizer: Tokenizer | ReleasedTokenizer, split: str) -> TokenizedSplit:
        """Open a tokenised split, memory-mapped.

        Raises:
            StoreError: see `unchanged`.
        """
        return read_split(self.unchanged(id_of_recipe(TokenizedData(data=data, tokenizer=tokenizer))), split)


@dataclass(frozen=True, kw_only=True)
class Work(RankWork):
    """The input of the first rank, which publishes the stage.

    Files to publish are written into `folder`. `previous` are the folders of interrupted attempts, newest first.
    `start_from` is the id of the kept state that training continues from. With `keeps_optimizer`, the optimizer state is
    saved with the weights.
    """

    attempt: Attempt
    previous: tuple[Path, ...]
    start_from: str | None
    keeps_optimizer: bool

    @property
    def folder(self) -> Path:
        return self.attempt.result


@functools.cache
def _check_files(root: Path, stage_id: str) -> None:
    Store(root).require_unchanged(stage_id)


@contextlib.contextmanager
def damage_remedied(*published: Path | None) -> Iterator[None]:
    """Turn a `CheckpointError` about these published states into a `StoreError` that states the fix.

    Raises:
        StoreError: a checkpoint is damaged; the message states the fix.
    """
    try:
        yield
    except CheckpointError as error:
        damaged = next((folder for folder in published if folder is not None and str(folder) in str(error)), None)
        remedy = f" Remove {damaged} and run the study again, which makes that state again." if damaged else ""
        raise StoreError(f"{error}{remedy}") from error


def require_these_numbers(recipe: Any, written_in: Path) -> None:
    """Reject a recipe planned for other versions of numerical code: midstudy may have been updated while a job was queued.

    Raises:
        StoreError: a numerical component now has another version.
    """
    for name, planned, current in other_versions(recipe):
        raise StoreError(
            f"{written_in}: expected version {planned} of {name}, that of the plan, got {current} in this midstudy, which "
            "computes different numbers. Plan the study again, or finish it with the midstudy that planned it."
        )
