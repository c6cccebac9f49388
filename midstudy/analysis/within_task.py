"""What a predictor is worth to a user with one task: the rank of mixes within a task, its noise ceiling, and regret."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from midstudy.analysis.crossed import Crossed, Matrix
from midstudy.analysis.qap import MAX_EXACT, SEED, drawn, of_relabellings, permutations, rank_r

MIN_MIXES_TO_RANK = 3


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Mean Spearman's rho of mixes over `num_tasks` tasks, with two-sided permutation p values.

    `p_within_tasks` permutes the mixes within every task on its own, `p_labels` in all tasks alike.
    """

    mean_rho: float = math.nan
    p_within_tasks: float = math.nan
    p_labels: float = math.nan
    num_tasks: int = 0
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Mean Spearman's rho of the rankings of mixes by two replicates, over `num_tasks` tasks that have several."""

    mean_rho: float = math.nan
    num_tasks: int = 0
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Regret:
    """Outcome lost by taking the predictor's top mix of each task: the mean over tasks, in the outcome's unit.

    `num_named` counts the tasks without loss. Where mixes tie for the top, it is the mean over them.
    """

    mean: float = math.nan
    num_named: int = 0
    num_tasks: int = 0


def rank_within_tasks(table: Crossed) -> Ranking:
    """Rank the mixes within every task that has at least three of them, and test the mean rho.

    All relabellings are evaluated up to `qap.MAX_EXACT`, otherwise `qap.NUM_DRAWS`. Permuting within tasks takes tasks as
    independent: if some mixes are good for all tasks, by their dose for example, `p_within_tasks` is too small, and
    `p_labels` is not.
    """
    tasks = list(_ranked_tasks(table))
    if not tasks:
        return Ranking(reason=f"no task has {MIN_MIXES_TO_RANK} mixes that differ")
    generator = np.random.default_rng(SEED)
    known = [np.flatnonzero(table.is_pair[:, task]) for task in tasks]
    outcomes = [table.y[mixes, task] for mixes, task in zip(known, tasks, strict=True)]
    predictions = [table.x[mixes, task] for mixes, task in zip(known, tasks, strict=True)]
    is_exact = math.prod(math.factorial(mixes.size) for mixes in known) <= MAX_EXACT
    by_task = [
        rank_r(x[permutations(x.size) if is_exact else drawn(generator, x.size)], y)
        for x, y in zip(predictions, outcomes, strict=True)
    ]
    # All combinations of the tasks' own permutations, or one permutation of every task a draw.
    sums = functools.reduce(np.add.outer, by_task).ravel() if is_exact else np.sum(by_task, axis=0)
    within = of_relabellings(sums / len(tasks))
    num_mixes = len(table.mixes)
    order = permutations(num_mixes) if math.factorial(num_mixes) <= MAX_EXACT else drawn(generator, num_mixes)
    alike = [rank_r(table.x[order[:, m], task], y) for m, task, y in zip(known, tasks, outcomes, strict=True)]
    labels = of_relabellings(np.mean(alike, axis=0))
    return Ranking(
        mean_rho=within.statistic,
        p_within_tasks=within.p_two_sided,
        p_labels=labels.p_two_sided,
        num_tasks=len(tasks),
    )


def replicate_agreement(replicates: Sequence[Matrix]) -> Agreement:
    """Return how well replicates, outcomes [mixes, tasks] with NaN where not measured, agree on the rank of mixes.

    It is the noise ceiling of a rank within tasks: a second measurement with one seed reaches it, and a predictor above it
    follows the mean over seeds better than one seed does.
    """
    by_task = []
    for columns in zip(*(one.T for one in replicates), strict=True):
        found = []
        for number, one in enumerate(columns):
            for other in columns[:number]:
                both = np.isfinite(one) & np.isfinite(other)
                if both.sum() >= MIN_MIXES_TO_RANK and np.ptp(one[both]) > 0 and np.ptp(other[both]) > 0:
                    found.append(float(rank_r(one[both][None], other[both])[0]))
        if found:
            by_task.append(fmean(found))
    if not by_task:
        return Agreement(reason=f"no task has {MIN_MIXES_TO_RANK} mixes with two seeds")
    return Agreement(mean_rho=fmean(by_task), num_tasks=len(by_task))


def regret_at_1(table: Crossed) -> Regret:
    """Return the regret over the tasks with at least two mixes whose prediction and outcome are known."""
    losses = []
    for task in range(len(table.tasks)):
        known = table.is_pair[:, task]
        if known.sum() < 2:
            continue
        x, y = table.x[known, task], table.y[known, task]
        losses.append(float(y.max() - y[x == x.max()].mean()))
    if not losses:
        return Regret()
    return Regret(mean=fmean(losses), num_named=sum(loss <= 0 for loss in losses), num_tasks=len(losses))


def _ranked_tasks(table: Crossed) -> Iterator[int]:
    """The tasks with at least three mixes that differ in prediction and in outcome."""
    for task in range(len(table.tasks)):
        known = table.is_pair[:, task]
        if known.sum() >= MIN_MIXES_TO_RANK and all(np.ptp(one[known, task]) > 0 for one in (table.x, table.y)):
            yield task
