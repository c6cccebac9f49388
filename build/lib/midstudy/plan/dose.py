"""What an arm was given of each data set: tokens or items drawn, and its share in the sum of learning rates."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from midstudy.data.slots import drawn_tokens
from midstudy.recipe.curriculum import Curriculum, Stretch
from midstudy.recipe.curve import Curve
from midstudy.recipe.data import Task
from midstudy.recipe.mixture import MixtureRamp
from midstudy.recipe.start_weights import Average


def whole_run(curriculum: Curriculum) -> list[Curriculum]:
    """The curriculum and the runs that its weights come from: of an average, that of its furthest state."""
    weights = curriculum.start.weights
    if not isinstance(weights, Average):
        return [curriculum]
    furthest = max(weights.states, key=lambda state: state.step)
    return [*whole_run(furthest.curriculum), curriculum]


def tokens_drawn(curriculum: Curriculum) -> dict[str, int]:
    """Tokens drawn of each corpus over a run."""
    found: dict[str, int] = {}
    for part in whole_run(curriculum):
        for corpus, number in drawn_tokens(part).items():
            found[corpus.name] = found.get(corpus.name, 0) + number
    return found


def items_drawn(curriculum: Curriculum) -> dict[str, int]:
    """Items drawn of each task over a run."""
    found: dict[str, int] = {}
    for part in whole_run(curriculum):
        for stretch in part.stretches:
            data = stretch.phase.data
            if isinstance(data, Task):
                number = (stretch.stop_step - stretch.start_step) * stretch.phase.num_sequences
                found[data.name] = found.get(data.name, 0) + number
    return found


def dose(curriculum: Curriculum) -> dict[str, float]:
    """Σ learning rate × share of each data set over the steps of a run, divided by Σ learning rate of the run.

    The doses of a run add up to 1; all are 0 where the learning rate always is.
    """
    found: dict[str, float] = {}
    total = 0.0
    for part in whole_run(curriculum):
        for stretch in part.stretches:
            rates = _rates(part.curve, stretch.start_step, stretch.stop_step)
            total += float(rates.sum())
            for name, value in _shared_out(stretch, rates).items():
                found[name] = found.get(name, 0.0) + value
    return {name: value / total if total else 0.0 for name, value in found.items()}


@lru_cache(maxsize=256)
def _rates(curve: Curve, start_step: int, stop_step: int) -> NDArray[np.float64]:
    return np.array([curve.lr(step) for step in range(start_step, stop_step)], dtype=np.float64)


def _shared_out(stretch: Stretch, rates: NDArray[np.float64]) -> dict[str, float]:
    """Σ learning rate × share of each data set over a stretch."""
    data = stretch.phase.data
    if isinstance(data, Task):
        return {data.name: float(rates.sum())}
    if not isinstance(data, MixtureRamp):
        return {part.corpus.name: float(rates.sum()) * float(part.share) for part in data.parts}
    found = {}
    for corpus in data.corpora:
        owed = [data.mean_share(corpus, step) * step for step in range(len(rates) + 1)]
        shares = np.array([float(after - before) for before, after in pairwise(owed)])
        found[corpus.name] = float((rates * shares).sum())
    return found
