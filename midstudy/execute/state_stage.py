"""The state stage: train from a kept state or from scratch, or write first weights that are not drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from midstudy.data.tokenizer import load_tokenizer
from midstudy.execute.first_weights import make_first_state
from midstudy.execute.state import CHECKPOINT_FOLDER, KeptCheckpoint, assist, can_begin_at, train_state
from midstudy.execute.work import RankWork, Work, damage_remedied
from midstudy.files.errors import StoreError
from midstudy.plan.published import states_before
from midstudy.recipe.choice import chosen_in
from midstudy.recipe.curriculum import State
from midstudy.recipe.stage import stage_id
from midstudy.recipe.start_weights import Average
from midstudy.store.store import Store


def state_stage(recipe: State, work: Work) -> dict[str, Any]:
    """Write the state's checkpoint; return the stage's metrics.

    Raises:
        StoppedError: `work.should_stop` returned true.
        StoreError: a required state is unfinished or damaged, or a choice that decides a learning rate is open.
    """
    if recipe.step == 0:
        return _first_state(recipe, work)
    _require_decided(recipe)
    tokenizer = recipe.curriculum.start.tokenizer
    parent = _kept(work, recipe, work.start_from) if work.start_from else None
    with damage_remedied(parent.published if parent else None):  # this stage's own damaged checkpoints are skipped
        return train_state(
            recipe,
            attempt=work.attempt,
            start_from=parent,
            earlier=_kept_before(work.store, recipe, parent.step) if parent else (),
            previous_attempts=list(work.previous),
            train_split=lambda data: work.split(data, tokenizer, "train"),
            packing=lambda packing: work.unchanged(packing.id),
            tokenizer=lambda: load_tokenizer(work.unchanged(stage_id(tokenizer))),
            keeps_optimizer=work.keeps_optimizer,
            should_stop=work.should_stop,
            placement=work.placement,
            ranks=work.ranks,
        )


def assist_state(recipe: State, work: RankWork) -> None:
    """Train as one of the other ranks; first weights are written by the first rank alone."""
    if recipe.step == 0:
        return
    tokenizer = recipe.curriculum.start.tokenizer
    assist(
        recipe,
        train_split=lambda data: work.split(data, tokenizer, "train"),
        packing=lambda packing: work.unchanged(packing.id),
        tokenizer=lambda: load_tokenizer(work.unchanged(stage_id(tokenizer))),
        should_stop=work.should_stop,
        placement=work.placement,
        ranks=work.ranks,
    )


def _require_decided(recipe: State) -> None:
    for chosen in chosen_in(recipe.curriculum.curve):
        if chosen.value is None:
            raise StoreError(
                f"stage {chosen.choice.id}: required, since it chooses {chosen.choice.name}, but not finished. Run the "
                "study again."
            )


def _first_state(recipe: State, work: Work) -> dict[str, Any]:
    weights = recipe.curriculum.start.weights
    averaged = {state.id: work.finished(state.id) for state in weights.states} if isinstance(weights, Average) else {}
    with damage_remedied(*averaged.values()):
        return make_first_state(
            recipe,
            checkpoint_of=lambda state_id: averaged[state_id] / CHECKPOINT_FOLDER,
            folder=work.folder / CHECKPOINT_FOLDER,
            should_stop=work.should_stop,
        )


def _kept(work: Work, recipe: State, state_id: str) -> KeptCheckpoint:
    published = work.finished(state_id)
    try:
        step = work.store.record(state_id, check_files=False).metrics["step"]
    except StoreError:  # the checkpoint itself may be intact and is checked when loaded
        curriculum = recipe.curriculum
        step = next(step for step in range(recipe.step) if curriculum.state_id(step) == state_id)
    return KeptCheckpoint(step=step, published=published)


def _kept_before(store: Store, recipe: State, step: int) -> Iterator[KeptCheckpoint]:
    """Yield kept states of any study before `step` from which the state can be trained, nearest first.

    The store's records are read only when the generator is iterated.
    """
    curriculum = recipe.curriculum
    for kept in states_before(store, curriculum, step):
        if can_begin_at(curriculum, kept.metrics["step"], has_optimizer=kept.metrics["has_optimizer"]):
            yield KeptCheckpoint(step=kept.metrics["step"], published=store.published_folder(kept.id))
