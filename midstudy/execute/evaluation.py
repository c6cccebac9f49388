"""The evaluation stage: evaluate a state, alone or beside another one, with its recipe's evaluator (`evaluate/table.py`)."""

from __future__ import annotations

import functools
import math
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers

from midstudy.data.tokenizer import load_tokenizer
from midstudy.data.tokens import TokenizedSplit
from midstudy.evaluate.model_cache import borrow_weights
from midstudy.evaluate.subject import Subject
from midstudy.evaluate.table import EVALUATORS
from midstudy.execute.state import CHECKPOINT_FOLDER
from midstudy.execute.stopped import StoppedError, until_stopped
from midstudy.execute.work import RankWork, Work, damage_remedied, require_these_numbers
from midstudy.model.compiled import StopRequestedError, stopping_between_parts
from midstudy.recipe.curriculum import State
from midstudy.recipe.decode import decode
from midstudy.recipe.measure import AnyEvaluation, StateEvaluation
from midstudy.recipe.stage import stage_id
from midstudy.train.placement import Placement


def evaluation_stage(recipe: StateEvaluation, work: Work) -> dict[str, Any]:
    """Evaluate a published state; return the stage's metrics.

    Raises:
        StoppedError: `work.should_stop` returned true.
        StoreError: a state that it reads, the tokens or the tokenizer are unfinished or damaged.
    """
    return evaluate_published(recipe, work, work.folder)


def evaluate_published(recipe: StateEvaluation, work: RankWork, folder: Path) -> dict[str, Any]:
    """Evaluate a published state, as `evaluation_stage`, with the evaluator's files in `folder`."""
    states: list[State] = [decode(work.store.record(state_id).recipe) for state_id in recipe.state_ids]
    for state, state_id in zip(states, recipe.state_ids, strict=True):
        require_these_numbers(state.curriculum.start.model, work.store.paths.record(state_id))
    folders, tokenizer = [work.finished(state_id) for state_id in recipe.state_ids], states[0].curriculum.start.tokenizer
    with damage_remedied(*folders):
        metrics = evaluate_state(
            recipe.evaluation,
            checkpoint=folders[0] / CHECKPOINT_FOLDER,
            other_checkpoint=folders[1] / CHECKPOINT_FOLDER if len(folders) > 1 else None,
            split=work.split(recipe.evaluation.data, tokenizer, recipe.evaluation.split),
            tokenizer=lambda: load_tokenizer(work.unchanged(stage_id(tokenizer))),
            folder=folder,
            should_stop=work.should_stop,
            placement=work.placement,
        )
    return _finite(metrics, recipe)


def _finite(metrics: dict[str, Any], recipe: StateEvaluation) -> dict[str, Any]:
    """Return the metrics without numbers that are not finite, such as losses of a diverged state: a record cannot hold them.

    `not_finite` names them, with their values as text.
    """
    not_finite = {
        name: str(value) for name, value in metrics.items() if isinstance(value, float) and not math.isfinite(value)
    }
    if not not_finite:
        return metrics
    print(
        f"state {recipe.state_id}: not finite: {', '.join(f'{name} {text}' for name, text in not_finite.items())}",
        flush=True,
    )
    return {name: value for name, value in metrics.items() if name not in not_finite} | {"not_finite": not_finite}


def evaluate_state(
    evaluation: AnyEvaluation,
    *,
    checkpoint: Path,
    other_checkpoint: Path | None = None,
    split: TokenizedSplit,
    tokenizer: Callable[[], tokenizers.Tokenizer],
    folder: Path,
    should_stop: Callable[[], bool] = lambda: False,
    placement: Placement | None = None,
) -> dict[str, Any]:
    """Evaluate a checkpoint on a split; return the evaluator's metrics.

    Args:
        other_checkpoint: that of `evaluation.other`.
        tokenizer: loads the tokenizer of the split; called only if the evaluation needs it.
        folder: where the evaluator writes files, such as results per item.
        should_stop: polled before every batch.

    Raises:
        ValueError: the split has too little to evaluate on.
        StoppedError: `should_stop` returned true.
    """
    placement = placement or Placement()
    borrowed = functools.partial(borrow_weights, device=placement.device, compiled=placement.compiled)
    subject = Subject(
        weights=functools.partial(borrowed, checkpoint),
        other_weights=None if other_checkpoint is None else functools.partial(borrowed, other_checkpoint),
        split=split,
        until_stopped=lambda batches: until_stopped(
            batches, should_stop, doing="evaluating", then="evaluates from the beginning"
        ),
        tokenizer=tokenizer,
        folder=folder,
    )
    try:
        with stopping_between_parts(should_stop):
            metrics: dict[str, Any] = pkgutil.resolve_name(EVALUATORS[type(evaluation)])(evaluation, subject)
            return metrics
    except StopRequestedError:
        raise StoppedError("stopped while a model was compiled; the next attempt evaluates from the beginning") from None
