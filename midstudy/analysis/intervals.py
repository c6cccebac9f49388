"""Small-sample statistics: t-intervals of paired differences, Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95


@dataclass(frozen=True)
class MeanInterval:
    """Mean of n independent values with its two-sided t-interval and the p value of the hypothesis that the mean is zero.

    `error` is the standard error of the mean. If it, the interval and the p value are NaN, `note` says why.
    """

    mean: float
    low: float
    high: float
    p_value: float
    n: int
    note: str
    error: float = math.nan


def mean_interval(values: Iterable[float]) -> MeanInterval:
    """95 % t-interval of a mean; applied to paired differences it is the interval of the paired t-test.

    A single value has no interval. Nor have values that do not vary: the t statistic is undefined, and identical values
    from different seeds suggest that the seeds had no effect.
    """
    sample = np.asarray(list(values), dtype=np.float64)
    n = sample.size
    if n == 0:
        return MeanInterval(math.nan, math.nan, math.nan, math.nan, 0, "no value")
    mean = float(sample.mean())
    if n == 1:
        return MeanInterval(mean, math.nan, math.nan, math.nan, 1, "one seed: no interval")
    deviation = float(sample.std(ddof=1))
    if deviation <= 1e-12 * float(np.abs(sample).max()):
        return MeanInterval(mean, math.nan, math.nan, math.nan, n, "no variation over seeds: no interval")
    from scipy.special import stdtr, stdtrit  # scipy.stats takes ten times as long for one number

    error = deviation / math.sqrt(n)
    half_width = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * error
    p_value = 2 * float(stdtr(n - 1, -abs(mean) / error))
    return MeanInterval(mean, mean - half_width, mean + half_width, p_value, n, "", error)


def holm(p_values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's step-down corrected p values (Scand. J. Statist. 6, 1979), in the order given.

    The family is all values that are not NaN; NaN stays NaN.
    """
    p = np.asarray(p_values, dtype=np.float64)
    corrected = np.full(p.shape, math.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(order.size, 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(factors * p[order]))
    return corrected
