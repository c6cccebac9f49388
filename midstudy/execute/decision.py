"""The decision stage: pick the option whose candidate has the best metric, and record all values."""

from __future__ import annotations

import math
from typing import Any

from midstudy.execute.work import Work
from midstudy.files.errors import StoreError
from midstudy.recipe.choice import Choice, Option
from midstudy.recipe.measure import StateEvaluation
from midstudy.store.decisions import has_diverged


def decision_stage(recipe: Choice, work: Work) -> dict[str, Any]:
    """Decide from the records of the candidates' evaluations; return the stage's metrics.

    `margin` of an option is by how much its metric is worse than that of the chosen one. Both are `None` for a candidate
    that diverged in training or whose metric is not finite.

    Raises:
        StoreError: an evaluation of a candidate is damaged, or unfinished although the candidate did not diverge.
        ValueError: the metric of every candidate is NaN or infinite.
    """
    evaluations = [_evaluation(recipe, option).id for option in recipe.options]
    measured = [_measured(recipe, option, work) for option in recipe.options]
    best = recipe.best(measured)
    sign = 1.0 if recipe.rule == "lowest" else -1.0
    options = [
        {
            "value": option.value,
            "state": option.state_id,
            "evaluation": evaluation,
            "measured": value if math.isfinite(value) else None,
            "margin": sign * (value - measured[best]) if math.isfinite(value) else None,
        }
        for option, evaluation, value in zip(recipe.options, evaluations, measured, strict=True)
    ]
    return {
        "name": recipe.name,
        "chosen": recipe.options[best].value,
        "metric": recipe.metric,
        "rule": recipe.rule,
        "judged_on": recipe.judged_on,
        "options": options,
    }


def _evaluation(recipe: Choice, option: Option) -> StateEvaluation:
    return StateEvaluation(state_id=option.state_id, evaluation=recipe.evaluation)


def _measured(recipe: Choice, option: Option, work: Work) -> float:
    """Return the metric of a candidate; NaN if its training diverged, or its evaluation found a value that is not finite.

    Raises:
        StoreError: the evaluation is damaged, or unfinished although the candidate did not diverge.
    """
    evaluation = _evaluation(recipe, option).id
    try:
        if not work.store.has(evaluation) and has_diverged(work.store, option.state_id):
            print(f"the candidate {option.value:g} (state {option.state_id}) diverged, so it is not chosen", flush=True)
            return math.nan
        work.finished(evaluation)
        record = work.store.record(evaluation)
    except StoreError as error:
        raise StoreError(
            f"choice {recipe.name}: the candidate {option.value:g} (state {option.state_id}): {error}"
        ) from error
    return float(record.metrics.get(recipe.metric, math.nan))
