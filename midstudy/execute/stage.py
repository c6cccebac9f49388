"""Makes one stage: reads what was asked for, calls its kind's maker (`recipe/kinds.py`), publishes the record."""

from __future__ import annotations

import dataclasses
import errno
import importlib
from collections.abc import Callable
from typing import Any

from midstudy.data.shards import has_shards
from midstudy.data.source import ChangedTextError
from midstudy.execute.stopped import StoppedError
from midstudy.execute.work import RankWork, Work, require_these_numbers
from midstudy.files.errors import StoreError, unwritable
from midstudy.recipe.decode import decode
from midstudy.recipe.kinds import STAGE_KINDS, StageRecipe
from midstudy.recipe.stage import stage_id
from midstudy.store.leftovers import is_alive, remove
from midstudy.store.store import Store
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
    require_these_numbers(recipe, store.paths.recipe(identity))
    if stage_id(recipe) != identity:
        raise StoreError(
            f"{store.paths.recipe(identity)}: its recipe has id {stage_id(recipe)}. It was edited, or written by another "
            "version of midstudy: plan the study again."
        )
    kind = STAGE_KINDS[type(recipe)]
    placement = placement or Placement()
    if not ranks.is_first:
        if kind.assist:
            rank_work = RankWork(store=store, should_stop=should_stop, placement=placement, ranks=ranks)
            _function(kind.assist)(recipe, rank_work)
        return
    former = store.previous_attempts(identity)
    attempt = store.attempt(identity)
    work = Work(
        store=store,
        should_stop=should_stop,
        placement=placement,
        ranks=ranks,
        attempt=attempt,
        former=tuple(former),
        start_from=start_from,
        keeps_optimizer=keeps_optimizer,
    )
    try:
        metrics = _function(kind.make)(recipe, work)
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


def _function(name: str) -> Callable[..., Any]:
    """The function called `module:function`."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)
