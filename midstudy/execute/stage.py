"""Makes one stage: reads what was asked for, does the work, publishes the record."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from midstudy.data.shards import has_shards
from midstudy.data.source import ChangedTextError
from midstudy.data.tokens import TokenizedSplit, read_split
from midstudy.execute.data import copy_tokenizer, make_counts, make_tokenizer, make_tokens
from midstudy.execute.evaluation import evaluate_state
from midstudy.execute.first_weights import make_first_state
from midstudy.execute.state import CHECKPOINT_FOLDER, KeptCheckpoint, assist, can_begin_at, train_state
from midstudy.execute.stopped import StoppedError
from midstudy.files.errors import StoreError, unwritable
from midstudy.plan.published import states_before
from midstudy.recipe.canonical import other_versions
from midstudy.recipe.curriculum import State
from midstudy.recipe.data import Dataset, ReleasedTokenizer, TokenizedData, Tokenizer
from midstudy.recipe.decode import decode
from midstudy.recipe.measure import StateEvaluation, TokenCounts
from midstudy.recipe.stage import StageRecipe, stage_id
from midstudy.recipe.start_weights import Average
from midstudy.store.attempt import RESULT_FOLDER, Attempt
from midstudy.store.leftovers import is_alive, remove
from midstudy.store.store import Store
from midstudy.train.checkpoint import CheckpointError
from midstudy.train.placement import Placement
from midstudy.train.ranks import ALONE, Ranks

__all__ = ["StoppedError", "execute_stage"]

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def execute_stage(
    store: Store,
    identity: str,
    *,
    start_from: str | None,
    keeps_optimizer: bool,
    should_stop: Callable[[], bool],
    placement: Placement | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Make the stage `identity` and publish its record; a finished one is left as it is.

    Args:
        start_from: id of the kept state that training goes on from.
        keeps_optimizer: publish the optimizer's state with the weights.
        should_stop: polled all the while.
        placement: how the numbers are computed; by default on one thread of the processor.
        ranks: the processes that make the stage together, each with this same call. The first does everything but its
            share of training alone.

    Raises:
        StoppedError: `should_stop` said so; the next attempt goes on from where this one stopped.
        StoreError: a parent is not finished, or the recipe on disk is not that of this id.
    """
    if store.has(identity) and ranks.size == 1:
        return
    wanted = store.requested(identity)
    recipe: StageRecipe = decode(wanted["recipe"])
    _require_these_numbers(recipe, store.paths.recipe(identity))
    if stage_id(recipe) != identity:
        raise StoreError(
            f"{store.paths.recipe(identity)}: its recipe has id {stage_id(recipe)}. It was edited, or written by another "
            "version of midstudy: plan the study again."
        )
    placement = placement or Placement()
    if not ranks.is_first:
        if isinstance(recipe, State) and recipe.step > 0:
            tokenizer = recipe.curriculum.start.tokenizer
            assist(
                recipe,
                train_split=lambda data: _split(store, data, tokenizer, "train"),
                should_stop=should_stop,
                placement=placement,
                ranks=ranks,
            )
        return
    former = store.former_attempts(identity)
    attempt = store.attempt(identity)
    try:
        metrics = _make(store, recipe, attempt, former, start_from, keeps_optimizer, should_stop, placement, ranks)
        attempt.publish(
            kind=wanted["kind"],
            label=wanted["label"],
            recipe=wanted["recipe"],
            canonical=wanted["canonical"],
            parents=tuple(wanted["parents"]),
            metrics=metrics,
            placement=dataclasses.asdict(placement),
        )
    except BaseException as error:
        attempt.close()
        if isinstance(error, ChangedTextError):  # the text may have changed while shards were written
            attempt.discard()
            for one in former:
                if not is_alive(one):
                    remove(one)
        elif not attempt.checkpoints.exists() and not has_shards(attempt.result):
            attempt.discard()
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise unwritable(attempt.folder, error) from error
        raise


def _make(
    store: Store,
    recipe: StageRecipe,
    attempt: Attempt,
    former: list[Path],
    start_from: str | None,
    keeps_optimizer: bool,
    should_stop: Callable[[], bool],
    placement: Placement,
    ranks: Ranks,
) -> dict[str, Any]:
    folder = attempt.result
    if isinstance(recipe, Tokenizer):
        return make_tokenizer(recipe, folder, should_stop=should_stop)
    if isinstance(recipe, ReleasedTokenizer):
        return copy_tokenizer(recipe, folder)
    if isinstance(recipe, TokenizedData):
        tokenizer_folder = _unchanged(store, stage_id(recipe.tokenizer))
        results = [one / RESULT_FOLDER for one in former]
        return make_tokens(recipe, tokenizer_folder, folder, former=results, should_stop=should_stop)
    if isinstance(recipe, TokenCounts):
        return make_counts(recipe, _unchanged(store, stage_id(recipe.tokenized)), folder, should_stop=should_stop)
    if isinstance(recipe, State) and recipe.step == 0:
        checkpoint = folder / CHECKPOINT_FOLDER
        weights = recipe.curriculum.start.weights
        averaged = {one.id: _finished(store, one.id) for one in weights.states} if isinstance(weights, Average) else {}
        with _damage_remedied(*averaged.values()):
            return make_first_state(
                recipe,
                checkpoint_of=lambda one: averaged[one] / CHECKPOINT_FOLDER,
                folder=checkpoint,
                should_stop=should_stop,
            )
    if isinstance(recipe, State):
        tokenizer = recipe.curriculum.start.tokenizer
        parent = _kept(store, recipe, start_from) if start_from else None
        with _damage_remedied(parent.published if parent else None):  # this stage's own damaged checkpoints are skipped
            return train_state(
                recipe,
                attempt=attempt,
                start_from=parent,
                earlier=_kept_before(store, recipe, parent.step) if parent else (),
                former_attempts=former,
                train_split=lambda data: _split(store, data, tokenizer, "train"),
                keeps_optimizer=keeps_optimizer,
                should_stop=should_stop,
                placement=placement,
                ranks=ranks,
            )
    assert isinstance(recipe, StateEvaluation)
    state: State = decode(store.record(recipe.state_id).recipe)
    _require_these_numbers(state.curriculum.start.model, store.paths.record(recipe.state_id))
    published = _finished(store, recipe.state_id)
    with _damage_remedied(published):
        return evaluate_state(
            recipe.evaluation,
            checkpoint=published / CHECKPOINT_FOLDER,
            split=_split(store, recipe.evaluation.data, state.curriculum.start.tokenizer, recipe.evaluation.split),
            should_stop=should_stop,
            placement=placement,
        )


@contextlib.contextmanager
def _damage_remedied(*published: Path | None) -> Iterator[None]:
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


def _kept(store: Store, recipe: State, identity: str) -> KeptCheckpoint:
    published = _finished(store, identity)
    try:
        step = store.record(identity, beside_files=False).metrics["step"]
    except StoreError:  # the checkpoint itself may be intact and is checked when loaded
        curriculum = recipe.curriculum
        step = next(one for one in range(recipe.step) if curriculum.state_id(one) == identity)
    return KeptCheckpoint(step=step, published=published)


def _kept_before(store: Store, recipe: State, step: int) -> Iterator[KeptCheckpoint]:
    """Kept states of any study before `step` from which the state can be trained, nearest first.

    Lazy: only iterating reads the store's records.
    """
    curriculum = recipe.curriculum
    for kept in states_before(store, curriculum, step):
        if can_begin_at(curriculum, kept.metrics["step"], has_optimizer=kept.metrics["has_optimizer"]):
            yield KeptCheckpoint(step=kept.metrics["step"], published=store.published_folder(kept.id))


def _require_these_numbers(recipe: Any, written_in: Path) -> None:
    """A job that waited while midstudy was exchanged makes nothing under an id that means other numbers.

    Raises:
        StoreError: a numerical component has another version by now.
    """
    for name, wanted, ours in other_versions(recipe):
        raise StoreError(
            f"{written_in}: planned for version {wanted} of {name}; this midstudy computes version {ours}, whose numbers "
            "differ. Plan the study again, or finish it with the midstudy that planned it."
        )


def _split(store: Store, data: Dataset, tokenizer: Tokenizer | ReleasedTokenizer, split: str) -> TokenizedSplit:
    return read_split(_unchanged(store, stage_id(TokenizedData(data=data, tokenizer=tokenizer))), split)


def _unchanged(store: Store, identity: str) -> Path:
    """The files of a finished data stage, read through once a job: what was damaged or exchanged on disk is never used."""
    folder = _finished(store, identity)
    _check_files(store.root, identity)
    return folder


@functools.cache
def _check_files(root: Path, identity: str) -> None:
    Store(root).require_unchanged(identity)


def _finished(store: Store, identity: str) -> Path:
    if not store.has(identity):
        raise StoreError(f"stage {identity}: needed and not finished; run the study again.")
    return store.published_folder(identity)
