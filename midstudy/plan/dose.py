"""Dose of each data set in an arm: tokens or items drawn, and its share in the sum of learning rates."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from midstudy.data.packed_counts import PackedCounts
from midstudy.data.slots import drawn_tokens
from midstudy.plan.packed import CountsOf, estimated_counts
from midstudy.recipe.curriculum import Curriculum, Stretch
from midstudy.recipe.curve import Curve
from midstudy.recipe.data import Task
from midstudy.recipe.mixture import MixtureRamp
from midstudy.recipe.packing import Packing
from midstudy.recipe.rollouts import Rollouts
from midstudy.recipe.start_weights import Average
from midstudy.recipe.task_mixture import TaskMixture


def whole_run(curriculum: Curriculum) -> list[Curriculum]:
    """Return the curriculum, preceded by the runs that its initial weights come from.

    For an average, only the run of its state with the most steps counts.
    """
    weights = curriculum.start.weights
    if not isinstance(weights, Average):
        return [curriculum]
    last = max(weights.states, key=lambda state: state.step)
    return [*whole_run(last.curriculum), curriculum]


def tokens_drawn(curriculum: Curriculum, counts_of: CountsOf = estimated_counts) -> dict[str, int]:
    """Return the tokens drawn over a run from each corpus, and from each task of a mixture of tasks, by name.

    Args:
        counts_of: what the packings of mixtures of tasks read.
    """
    tokens: dict[str, int] = {}
    for part in whole_run(curriculum):
        for corpus, number in drawn_tokens(part).items():
            tokens[corpus.name] = tokens.get(corpus.name, 0) + number
        for counts, num_steps in _packed(part, counts_of):
            for name, read in zip(counts.names, counts.read(num_steps)[0], strict=True):
                tokens[name] = tokens.get(name, 0) + read
    return tokens


def items_drawn(curriculum: Curriculum, counts_of: CountsOf = estimated_counts) -> dict[str, int]:
    """Return the items drawn from each task over a run, by name; `counts_of` as in `tokens_drawn`. Of rollouts, a prompt is
    an item."""
    items: dict[str, int] = {}
    for part in whole_run(curriculum):
        for placed in part.stretches:
            data = placed.phase.data
            if isinstance(data, Task):
                number = (placed.stop_step - placed.start_step) * placed.phase.num_sequences
                items[data.name] = items.get(data.name, 0) + number
            elif isinstance(data, Rollouts):
                number = (placed.stop_step - placed.start_step) * placed.phase.num_sequences // data.num_samples
                items[data.name] = items.get(data.name, 0) + number
        for counts, num_steps in _packed(part, counts_of):
            for name, read in zip(counts.names, counts.read(num_steps)[1], strict=True):
                items[name] = items.get(name, 0) + read
    return items


def _packed(curriculum: Curriculum, counts_of: CountsOf) -> Iterator[tuple[PackedCounts, int]]:
    """Yield what the packing of each mixture of tasks reads, and how many of its steps the curriculum trains."""
    for placed in curriculum.stretches:
        if isinstance(placed.phase.data, TaskMixture):
            packing = Packing.of(placed.phase, curriculum.start.tokenizer)
            yield counts_of(packing), placed.stop_step - placed.start_step


def dose(curriculum: Curriculum, counts_of: CountsOf = estimated_counts) -> dict[str, float | None]:
    """Return Σ learning rate × share of each data set over the steps of a run, divided by the run's Σ learning rate.

    The doses of a run add up to 1; all are 0 if the learning rate is always 0. All are `None` while a choice that decides
    some of the rates is open, since the denominator has every rate, and for a run without `one_scale`. `counts_of` as in
    `tokens_drawn`.
    """
    runs = whole_run(curriculum)
    if not (one_scale(*runs) and all(part.curve.window(0, part.num_steps).is_decided for part in runs)):
        return {data.name: None for part in runs for placed in part.stretches for data in placed.phase.datasets}
    sums: dict[str, float] = {}
    total = 0.0
    for part in runs:
        for placed in part.stretches:
            window = part.curve.window(placed.start_step, placed.stop_step)  # alike in runs that differ elsewhere
            rates = learning_rates(window, placed.start_step, placed.stop_step)
            total += float(rates.sum())
            for name, value in _weighted_rates(part, placed, rates, counts_of).items():
                sums[name] = sums.get(name, 0.0) + value
    return {name: value / total if total else 0.0 for name, value in sums.items()}


def one_scale(*runs: Curriculum) -> bool:
    """Return whether the learning rates of all phases can be added up.

    They cannot if one phase's curve is a rate and another's a multiplier of the rates of its parameter groups, if these
    rates differ, or if one phase trains matrices with Muon and another with AdamW.
    """
    phases = [placed.phase.optimizer for part in runs for placed in part.stretches]
    return len({(optimizer.muon is None, *(group.lr_factor for group in optimizer.groups)) for optimizer in phases}) <= 1


@lru_cache(maxsize=256)
def learning_rates(curve: Curve, start_step: int, stop_step: int) -> NDArray[np.float64]:
    """Return the learning rate of every step in [start_step, stop_step)."""
    return np.array([curve.lr(step) for step in range(start_step, stop_step)], dtype=np.float64)


def _weighted_rates(
    curriculum: Curriculum, placed: Stretch, rates: NDArray[np.float64], counts_of: CountsOf
) -> dict[str, float]:
    """Return Σ learning rate × share of each data set over a placed phase with the learning rates `rates`, (num_steps,)."""
    data = placed.phase.data
    if isinstance(data, Task | Rollouts):
        return {data.name: float(rates.sum())}
    if isinstance(data, TaskMixture):
        counts = counts_of(Packing.of(placed.phase, curriculum.start.tokenizer))
        return dict(zip(counts.names, (rates @ counts.step_shares(len(rates))).tolist(), strict=True))
    if not isinstance(data, MixtureRamp):
        return {part.corpus.name: float(rates.sum()) * float(part.share) for part in data.parts}
    sums = {}
    for corpus in data.corpora:
        cumulative = [data.mean_share(corpus, step) * step for step in range(len(rates) + 1)]
        shares = np.array([float(after - before) for before, after in pairwise(cumulative)])
        sums[corpus.name] = float((rates * shares).sum())
    return sums
