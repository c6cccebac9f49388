"""Make one stage: read its recipe, call the function of its kind (`recipe/kinds.py`), publish the record."""

from __future__ import annotations

import dataclasses
import errno
import pkgutil
from collections.abc import Callable

from midstudy.data.shards import has_shards
from midstudy.data.split_rows import ChangedTextError
from midstudy.execute.stopped import StoppedError
from midstudy.execute.work import RankWork, Work, require_these_numbers
from midstudy.files.errors import StoreError, unwritable
from midstudy.recipe.canonical import expanded
from midstudy.recipe.decode import decode
from midstudy.recipe.kinds import STAGE_KINDS, StageRecipe
from midstudy.recipe.stage import stage_id as id_of_recipe
from midstudy.store.decisions import as_decided
from midstudy.store.leftovers import is_alive, remove
from midstudy.store.store import Store
from midstudy.train.placement import Placement
from midstudy.train.ranks import ALONE, Ranks

__all__ = ["StoppedError", "execute_stage"]

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def execute_stage(
    store: Store,
    stage_id: str,
    *,
    start_from: str | None,
    keeps_optimizer: bool,
    should_stop: Callable[[], bool],
    placement: Placement | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Make the stage `stage_id` and publish its record; a finished stage is left unchanged.

    Args:
        start_from: id of the kept state that training continues from.
        keeps_optimizer: publish the optimizer state with the weights.
        should_stop: polled throughout.
        placement: how the stage is computed; by default on one CPU thread.
        ranks: the processes that make the stage together, each with this same call. They share the training; the first does
            everything else.

    Raises:
        StoppedError: `should_stop` returned true; the next attempt resumes where this one stopped.
        StoreError: a parent is not finished, or the recipe on disk does not have this id.
    """
    if store.has(stage_id) and ranks.size == 1:
        return
    request = store.requested(stage_id)
    recipe: StageRecipe = decode(request["recipe"])
    require_these_numbers(recipe, store.paths.recipe(stage_id))
    if id_of_recipe(recipe) != stage_id:
        raise StoreError(
            f"{store.paths.recipe(stage_id)}: its recipe has id {id_of_recipe(recipe)}. It was edited, or written by "
            "another version of midstudy: plan the study again."
        )
    recipe = as_decided(store, recipe)
    kind = STAGE_KINDS[type(recipe)]
    placement = placement or Placement()
    if not ranks.is_first:
        if kind.assist:
            rank_work = RankWork(store=store, should_stop=should_stop, placement=placement, ranks=ranks)
            pkgutil.resolve_name(kind.assist)(recipe, rank_work)
        return
    previous = store.previous_attempts(stage_id)
    attempt = store.attempt(stage_id)
    work = Work(
        store=store,
        should_stop=should_stop,
        placement=placement,
        ranks=ranks,
        attempt=attempt,
        previous=tuple(previous),
        start_from=start_from,
        keeps_optimizer=keeps_optimizer,
    )
    try:
        metrics = pkgutil.resolve_name(kind.make)(recipe, work)
        attempt.publish(
            kind=request["kind"],
            label=request["label"],
            recipe=expanded(recipe),  # with the outcomes of its choices
            canonical=request["canonical"],
            parents=tuple(request["parents"]),
            metrics=metrics,
            placement=dataclasses.asdict(placement),
        )
    except BaseException as error:
        attempt.close()
        if isinstance(error, ChangedTextError):  # the text may have changed while shards were written
            attempt.discard()
            for folder in previous:
                if not is_alive(folder):
                    remove(folder)
        elif not attempt.checkpoints.exists() and not has_shards(attempt.result):
            attempt.discard()
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise unwritable(attempt.folder, error) from error
        raise
