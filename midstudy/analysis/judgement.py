"""What predictors of improvement are worth on finished studies: rank within a task, regret, and decidable pairs.

A pair of candidates is decidable if the paired 95 % t-interval of their difference over the trunk seeds excludes zero; the
others judge no predictor. Intervals resample whole studies. The bars are those of `verdict`, and were fixed before the
judged studies were trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import numpy as np

from midstudy.analysis.intervals import mean_interval
from midstudy.analysis.qap import rank_r

MAX_REGRET = 0.01
MIN_SHARE_RIGHT = 0.85
MIN_DECIDABLE = 12
MIN_STUDIES_FOR_INTERVAL = 3
_NUM_DRAWS = 10_000
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A candidate that was trained with: relative improvements of the task's loss by trunk seed, and predictors' scores."""

    candidate: str
    improvements: Mapping[Hashable, float]
    scores: Mapping[str, float]

    @property
    def improvement(self) -> float:
        return fmean(self.improvements.values())


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """A predictor on one task of one study. `rho` is NaN where it or the outcome does not vary; a tie is half right."""

    study: str
    task: str
    num_candidates: int
    rho: float
    regret: float
    num_right: float
    num_decidable: int


@dataclass(frozen=True, kw_only=True)
class Total:
    """A mean or ratio over studies with its 95 % interval, NaN with fewer than three studies."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`answer` is "passed", "failed" or "not judged"; `reasons` say why, a sentence each."""

    answer: str
    reasons: tuple[str, ...]


def decidable(candidates: Sequence[Trained]) -> list[tuple[Trained, Trained]]:
    """Return the pairs whose difference is decided by the seeds that both have, the better candidate first."""
    found = []
    for one, other in combinations(candidates, 2):
        seeds = one.improvements.keys() & other.improvements.keys()
        interval = mean_interval(one.improvements[seed] - other.improvements[seed] for seed in sorted(seeds, key=str))
        if interval.low > 0:
            found.append((one, other))
        elif interval.high < 0:
            found.append((other, one))
    return found


def score_task(candidates: Sequence[Trained], predictor: str, *, study: str, task: str) -> TaskScore:
    """Judge one predictor on the candidates of one task.

    Raises:
        ValueError: there are fewer than two candidates.
    """
    if len(candidates) < 2:
        raise ValueError(f"{study}, {task}: expected at least two candidates, got {len(candidates)}")
    x = np.array([one.scores[predictor] for one in candidates])
    y = np.array([one.improvement for one in candidates])
    pairs = decidable(candidates)
    right = sum(
        0.5 * (1 + np.sign(better.scores[predictor] - worse.scores[predictor])) for better, worse in pairs
    )  # fmt: skip
    return TaskScore(
        study=study,
        task=task,
        num_candidates=len(candidates),
        rho=float(rank_r(x[None], y)[0]) if np.ptp(x) > 0 and np.ptp(y) > 0 else math.nan,
        regret=float(y.max() - y[x == x.max()].mean()),
        num_right=float(right),
        num_decidable=len(pairs),
    )


def mean_rho(scores: Sequence[TaskScore]) -> float:
    """Return the mean rank correlation over tasks that have one."""
    known = [one.rho for one in scores if math.isfinite(one.rho)]
    return fmean(known) if known else math.nan


def mean_regret(scores: Sequence[TaskScore]) -> float:
    """Return the mean regret at 1 over tasks, a fraction of the loss."""
    return fmean(one.regret for one in scores)


def share_right(scores: Sequence[TaskScore]) -> float:
    """Return the share of decidable pairs that are in the right order; NaN without any."""
    number = sum(one.num_decidable for one in scores)
    return sum(one.num_right for one in scores) / number if number else math.nan


def over_studies(scores: Sequence[TaskScore], statistic: Callable[[Sequence[TaskScore]], float]) -> Total:
    """Return a statistic over all tasks, with the bootstrap interval over whole studies."""
    value = statistic(scores)
    by_study: dict[str, list[TaskScore]] = {}
    for one in scores:
        by_study.setdefault(one.study, []).append(one)
    if len(by_study) < MIN_STUDIES_FOR_INTERVAL:
        return Total(value=value)
    groups = list(by_study.values())
    draws = np.random.default_rng(_SEED).integers(len(groups), size=(_NUM_DRAWS, len(groups)))
    known: dict[tuple[int, ...], float] = {}
    values = []
    for draw in map(tuple, np.sort(draws, axis=1).tolist()):
        if draw not in known:
            known[draw] = statistic([one for place in draw for one in groups[place]])
        values.append(known[draw])
    low, high = np.nanquantile(values, [0.025, 0.975])
    return Total(value=value, low=float(low), high=float(high))


def verdict(primary: Sequence[TaskScore], rivals: Mapping[str, Sequence[TaskScore]]) -> Verdict:
    """Judge the primary predictor's scores by the bars.

    Mean regret at 1 of at most 1 point of percent over all tasks; at least 85 % of all decidable pairs right; and in every
    study no more regret than each rival, nor fewer decidable pairs right. With fewer than 12 decidable pairs over all
    studies nothing is judged.
    """
    number = sum(one.num_decidable for one in primary)
    if number < MIN_DECIDABLE:
        return Verdict(answer="not judged", reasons=(f"{number} decidable pairs, expected at least {MIN_DECIDABLE}",))
    reasons = []
    if (regret := mean_regret(primary)) > MAX_REGRET:
        reasons.append(f"regret at 1 is {100 * regret:.2f} points, the bar {100 * MAX_REGRET:g}")
    if (right := share_right(primary)) < MIN_SHARE_RIGHT:
        reasons.append(f"{100 * right:.0f} % of {number} decidable pairs are right, the bar {100 * MIN_SHARE_RIGHT:g} %")
    for name, scores in rivals.items():
        for study in dict.fromkeys(one.study for one in primary):
            own, others = ([one for one in found if one.study == study] for found in (primary, scores))
            if mean_regret(own) > mean_regret(others) + 1e-12:
                reasons.append(
                    f"{study}: regret {100 * mean_regret(own):.2f} points, with {name} {100 * mean_regret(others):.2f}"
                )
            own_right, other_right = (sum(one.num_right for one in found) for found in (own, others))
            if own_right < other_right:
                reasons.append(f"{study}: {own_right:g} decidable pairs right, with {name} {other_right:g}")
    return Verdict(answer="failed" if reasons else "passed", reasons=tuple(reasons) or ("all bars are met",))
