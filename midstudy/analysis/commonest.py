"""How far the commonest right answer of a question comes: what a state reaches that always says the same."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from midstudy.evaluate.scores import is_right
from midstudy.recipe.choices import CHOICES_FILE
from midstudy.recipe.generation import TRANSCRIPTS_FILE


def commonest_share(folder: Path, evaluation: Mapping[str, Any]) -> float:
    """Return the share of items for which one answer, the best such, is right; NaN if the evaluation published no answers.

    Args:
        folder: the published files of the evaluation's stage.
        evaluation: its recipe.
    """
    if (folder / TRANSCRIPTS_FILE).exists():
        references = {line["item"]: str(line["reference"]) for line in _lines(folder / TRANSCRIPTS_FILE)}.values()
        return _best(references, lambda answer, reference: is_right(answer, reference, str(evaluation["score"])))
    if (folder / CHOICES_FILE).exists():
        answers = [line["answer"] for line in _lines(folder / CHOICES_FILE)]
        return _best(answers, lambda answer, reference: answer == reference)
    return math.nan


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    return map(json.loads, path.read_text("utf-8").splitlines())


def _best(references: Iterable[Any], is_same: Any) -> float:
    each = [*references]
    return max(sum(is_same(one, other) for other in each) for one in dict.fromkeys(each)) / len(each)
