"""Table of evaluators: the recipe, and the function that runs it.

The recipe in `recipe/` defines what an evaluation reports (`METRICS`) and how many tokens it costs (`num_tokens`),
since plans need both. Functions are given as `module:function`, so that this module does not import torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from midstudy.recipe.measure import Evaluation
from midstudy.recipe.representation import RepresentationSimilarity


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """`run` is a function of (recipe, `evaluate.subject.Subject`) that returns the metrics for the record."""

    recipe: type
    run: str

    @property
    def function(self) -> Callable[..., dict[str, Any]]:
        module, _, function = self.run.partition(":")
        return getattr(importlib.import_module(module), function)


_EVALUATORS = (
    Evaluator(recipe=Evaluation, run="midstudy.evaluate.loss:evaluate_loss"),
    Evaluator(recipe=RepresentationSimilarity, run="midstudy.evaluate.representation:compare_representations"),
)

EVALUATORS = {evaluator.recipe: evaluator for evaluator in _EVALUATORS}
