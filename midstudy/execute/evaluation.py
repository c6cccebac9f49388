"""The evaluation stage: evaluate one state on one split with the evaluator of its recipe (`evaluate/table.py`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers

from midstudy.data.tokenizer import load_tokenizer
from midstudy.data.tokens import TokenizedSplit
from midstudy.evaluate.model_cache import borrow_model
from midstudy.evaluate.subject import Subject
from midstudy.evaluate.table import EVALUATORS
from midstudy.execute.state import CHECKPOINT_FOLDER
from midstudy.execute.stopped import StoppedError, until_stopped
from midstudy.execute.work import Work, damage_remedied, require_these_numbers
from midstudy.model.compiled import StopRequestedError, stopping_between_parts
from midstudy.recipe.curriculum import State
from midstudy.recipe.decode import decode
from midstudy.recipe.measure import Evaluation, StateEvaluation
from midstudy.recipe.stage import stage_id
from midstudy.train.placement import Placement


def evaluation_stage(recipe: StateEvaluation, work: Work) -> dict[str, Any]:
    """Evaluate a published state; return the stage's metrics.

    Raises:
        StoppedError: `work.should_stop` returned true.
        StoreError: the state, the tokens or the tokenizer are unfinished or damaged.
    """
    state: State = decode(work.store.record(recipe.state_id).recipe)
    require_these_numbers(state.curriculum.start.model, work.store.paths.record(recipe.state_id))
    published, tokenizer = work.finished(recipe.state_id), state.curriculum.start.tokenizer
    with damage_remedied(published):
        return evaluate_state(
            recipe.evaluation,
            checkpoint=published / CHECKPOINT_FOLDER,
            split=work.split(recipe.evaluation.data, tokenizer, recipe.evaluation.split),
            tokenizer=lambda: load_tokenizer(work.unchanged(stage_id(tokenizer))),
            folder=work.folder,
            should_stop=work.should_stop,
            placement=work.placement,
        )


def evaluate_state(
    evaluation: Evaluation,
    *,
    checkpoint: Path,
    split: TokenizedSplit,
    tokenizer: Callable[[], tokenizers.Tokenizer],
    folder: Path,
    should_stop: Callable[[], bool] = lambda: False,
    placement: Placement | None = None,
) -> dict[str, Any]:
    """Evaluate a checkpoint on a split; return the evaluator's metrics.

    Args:
        tokenizer: loads the tokenizer of the split; called only if the evaluation needs it.
        folder: where the evaluator writes files, such as results per item.
        should_stop: polled before every batch.

    Raises:
        ValueError: the split has too little to evaluate on.
        StoppedError: `should_stop` returned true.
    """
    placement = placement or Placement()
    subject = Subject(
        model=lambda: borrow_model(checkpoint, device=placement.device, compiled=placement.compiled),
        split=split,
        until_stopped=lambda batches: until_stopped(
            batches, should_stop, doing="evaluating", then="evaluates from the beginning"
        ),
        tokenizer=tokenizer,
        folder=folder,
    )
    try:
        with stopping_between_parts(should_stop):
            return EVALUATORS[type(evaluation)].function(evaluation, subject)
    except StopRequestedError:
        raise StoppedError("stopped while a model was compiled; the next attempt evaluates from the beginning") from None
