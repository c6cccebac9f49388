"""Variances of few values each, moderated towards what they have in common, as limma does.

Three seeds know their variance to a factor of six. Cells of one table are alike, so each variance is combined with a prior
that all cells estimate together (Smyth, Statistical Applications in Genetics and Molecular Biology 3(1), 2004). The prior
supposes that the cells' true variances scatter like a scaled inverse χ²; a cell that is unlike the others gets an interval
that is too narrow or too wide. Verdicts therefore rest on the plain paired t-test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from midstudy.analysis.intervals import CONFIDENCE

_SMALLEST_SPREAD = 1e-6
"""Excess variance of log variances below which the prior's degrees of freedom, then above 2e6, count as infinite."""


@dataclass(frozen=True)
class Prior:
    """The distribution of the cells' true variances: s0² with d0 degrees of freedom.

    `df` is 0 if there is too little to estimate it from, and infinite if the sample variances scatter no more than those of
    equal true variances would.
    """

    variance: float
    df: float


def variance_prior(variances: NDArray[np.float64], dfs: NDArray[np.float64]) -> Prior:
    """Estimate the prior of sample variances by the moments of their logarithms (Smyth 2004, section 6.2).

    With e = log s² − ψ(d/2) + log(d/2), the trigamma of d0/2 is the variance of e minus the mean trigamma of d/2. If d0 is
    infinite, s0² is the pooled variance, its maximum-likelihood estimate, as in limma since 2017.

    Args:
        variances: sample variances, shape (num_cells,), all positive.
        dfs: their degrees of freedom, shape (num_cells,), all positive.
    """
    if variances.size < 2:
        return Prior(math.nan, 0.0)
    from scipy.special import digamma, polygamma

    half = dfs / 2
    logs = np.log(variances) - digamma(half) + np.log(half)
    spread = float(logs.var(ddof=1) - polygamma(1, half).mean())
    if spread <= _SMALLEST_SPREAD:
        return Prior(float(np.average(variances, weights=dfs)), math.inf)
    half_df = inverse_trigamma(spread)
    return Prior(math.exp(float(logs.mean()) + float(digamma(half_df)) - math.log(half_df)), 2 * half_df)


def inverse_trigamma(value: float) -> float:
    """Return x > 0 with trigamma(x) = value, for value > 0."""
    from scipy.optimize import brentq
    from scipy.special import polygamma

    # 1/x < trigamma(x) < 1/x + 1/x²
    low, high = 1 / value, (1 + math.sqrt(1 + 4 * value)) / (2 * value)
    return float(brentq(lambda x: float(polygamma(1, x)) - value, low, high, xtol=1e-300, rtol=1e-12))


def moderated_intervals(
    means: NDArray[np.float64], variances: NDArray[np.float64], nums: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return 95 % t-intervals of means with moderated variances, shape (num_cells, 2).

    The posterior variance is (d0 s0² + d s²) / (d0 + d), and t has d0 + d degrees of freedom, at most the sum of all d, as
    in limma, since the prior is estimated from no more. NaN for a cell with one value or without variation: what is pooled
    is added to its own variance and does not replace it.

    Args:
        means: shape (num_cells,).
        variances: sample variances of single values (not of means), shape (num_cells,).
        nums: numbers of values, shape (num_cells,).

    On average over cells whose variances scatter as supposed, 95 % of the intervals cover. Where standard deviations differ
    tenfold, 93 % of all were measured to, from 82 % in the noisiest cell to 97 % in the quietest
    (tests/analysis/test_planted_truth.py).
    """
    from scipy.special import stdtrit

    intervals = np.full((means.size, 2), math.nan)
    dfs = nums.astype(np.float64) - 1
    usable = (dfs >= 1) & (variances > 0)
    if not usable.any():
        return intervals
    own, own_df = variances[usable], dfs[usable]
    prior = variance_prior(own, own_df)
    if math.isinf(prior.df):
        posterior = np.full(own.shape, prior.variance)
    elif prior.df:
        posterior = (prior.df * prior.variance + own_df * own) / (prior.df + own_df)
    else:
        posterior = own
    df = np.minimum(prior.df + own_df, own_df.sum())
    half_width = stdtrit(df, (1 + CONFIDENCE) / 2) * np.sqrt(posterior / nums[usable])
    intervals[usable] = np.stack([means[usable] - half_width, means[usable] + half_width], axis=1)
    return intervals
