"""QAP: permutation tests of a correlation over pairs of a mix and a task, with mixes and tasks relabelled as wholes.

Krackhardt, "Predicting with networks: nonparametric multiple regression analysis of dyadic data", Social Networks 10
(1988). Rows and columns of one table are permuted, so that effects of mixes and of tasks, which make pairs dependent, stay
in both tables. The hypothesis is that the labels of one table say nothing about the other; then p values are uniform.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from midstudy.analysis.crossed import MIN_PAIRS, Crossed, Matrix, weighted_r

MAX_EXACT = 50_000
"""Up to so many relabellings all are evaluated."""
NUM_DRAWS = 10_000
"""Relabellings drawn where there are more, the identity among them."""
SEED = 1988

TIE = 1e-9
"""Statistics this close are ties: sums in another order differ by rounding."""


@dataclass(frozen=True, kw_only=True)
class PermutationTest:
    """A statistic and its p values: the shares of relabellings with a statistic at least as large, small or far from 0.

    A relabelling whose statistic is not defined counts as extreme in every direction.
    """

    statistic: float
    p_greater: float = math.nan
    p_less: float = math.nan
    p_two_sided: float = math.nan
    num_relabellings: int = 0
    reason: str = ""

    @property
    def p_directed(self) -> float:
        """Twice the smaller one-sided p, at most 1: the p of a verdict in either direction (`decisions.decision_p`).

        It differs from `p_two_sided` where relabelling does not spread the statistic evenly around 0.
        """
        doubled = 2 * min(self.p_greater, self.p_less)
        return doubled if math.isnan(doubled) else min(1.0, doubled)


def of_relabellings(statistics: Matrix) -> PermutationTest:
    """The test whose statistics over all relabellings are given, that of the identity first."""
    observed = float(statistics[0])
    undefined = np.isnan(statistics)
    return PermutationTest(
        statistic=observed,
        p_greater=float(np.mean(undefined | (statistics >= observed - TIE))),
        p_less=float(np.mean(undefined | (statistics <= observed + TIE))),
        p_two_sided=float(np.mean(undefined | (np.abs(statistics) >= abs(observed) - TIE))),
        num_relabellings=len(statistics),
    )


def qap(table: Crossed, *, by_rank: bool = False) -> PermutationTest:
    """Test Pearson's r, or Spearman's rho if `by_rank`, over all pairs.

    The predictor is relabelled and the outcome stays, so an incomplete outcome keeps its pairs if the predictor is known for
    every mix and task; where it is not, a relabelling is evaluated over the pairs that it leaves.
    """
    reason = table.undefined()
    if reason:
        return PermutationTest(statistic=math.nan, reason=reason)
    known = table.is_pair
    statistic = rank_r if by_rank else masked_r
    too_few = table.uncrossed()
    if too_few:
        return PermutationTest(statistic=float(statistic(table.x[known][None], table.y[known])[0]), reason=too_few)
    return of_relabellings(statistic(relabelled(table.x)[:, known], table.y[known]))


def partial_qap(table: Crossed, given: NDArray[np.float64]) -> PermutationTest:
    """Test the partial correlation of predictor and outcome given one number per mix, of shape [mixes].

    Double semi-partialling (Dekker, Krackhardt and Snijders, "Sensitivity of MRQAP tests to collinearity and autocorrelation
    conditions", Psychometrika 72, 2007): the predictor's residuals on `given` are relabelled, and the partial correlation is
    computed again with `given` in place.
    """
    known = table.is_pair & np.isfinite(given)[:, None]
    reason = table.undefined() or table.uncrossed()
    if not reason and known.sum() < MIN_PAIRS + 1:
        reason = f"expected at least {MIN_PAIRS + 1} pairs with a dose, got {known.sum()}"
    if reason:
        return PermutationTest(statistic=math.nan, reason=reason)
    control = np.broadcast_to(given[:, None], table.x.shape)
    x, y, z = table.x[known], table.y[known], control[known]
    if np.ptp(z) <= 1e-12 * np.abs(z).max():
        return PermutationTest(statistic=math.nan, reason="dose does not vary")
    of_x, of_y = (np.polynomial.Polynomial.fit(z, values, deg=1) for values in (x, y))
    residuals = table.x - of_x(control)
    for name, values, left in (("proximity advantage", x, residuals[known]), ("relative improvement", y, y - of_y(z))):
        if np.ptp(left) <= 1e-9 * np.ptp(values):
            return PermutationTest(statistic=math.nan, reason=f"dose determines {name}")
    return of_relabellings(_partial_r(relabelled(residuals)[:, known], y, z))


def masked_r(x: Matrix, y: Matrix) -> Matrix:
    """Pearson's r of every row of `x` [relabellings, pairs] with `y` [pairs], over the pairs where `x` is known."""
    is_known = np.isfinite(x)
    return weighted_r(np.where(is_known, x, 0.0), y, is_known.astype(float))


def rank_r(x: Matrix, y: Matrix) -> Matrix:
    """Spearman's rho of every row of `x` [relabellings, pairs] with `y` [pairs], over the pairs where `x` is known."""
    from scipy import stats

    ranks = stats.rankdata(x, axis=-1, nan_policy="omit")
    of_y = np.where(np.isfinite(x), y, math.nan) if np.isnan(x).any() else y
    return masked_r(ranks, np.nan_to_num(stats.rankdata(of_y, axis=-1, nan_policy="omit")))


def relabelled(values: Matrix) -> Matrix:
    """Return a table with its mixes and tasks permuted: [relabellings, mixes, tasks], the identity first."""
    mixes, tasks = values.shape
    if math.factorial(mixes) * math.factorial(tasks) <= MAX_EXACT:
        by_mix, by_task = permutations(mixes), permutations(tasks)
        rows, columns = np.repeat(by_mix, len(by_task), axis=0), np.tile(by_task, (len(by_mix), 1))
    else:
        generator = np.random.default_rng(SEED)
        rows, columns = (drawn(generator, size) for size in values.shape)
    return values[rows[:, :, None], columns[:, None, :]]


def permutations(size: int) -> NDArray[np.int64]:
    """Return all permutations of 0 … size − 1, the identity first."""
    return np.array(list(itertools.permutations(range(size))), dtype=np.int64)


def drawn(generator: np.random.Generator, size: int) -> NDArray[np.int64]:
    """Return `NUM_DRAWS` permutations: the identity, then random ones."""
    identity = np.tile(np.arange(size), (NUM_DRAWS, 1))
    return np.vstack([identity[:1], generator.permuted(identity[1:], axis=1)])


def _partial_r(x: Matrix, y: Matrix, z: Matrix) -> Matrix:
    xy, xz, yz = masked_r(x, y), masked_r(x, z), masked_r(np.where(np.isnan(x), math.nan, z), y)
    with np.errstate(invalid="ignore", divide="ignore"):
        partial = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    return np.where(np.isfinite(partial), np.clip(partial, -1.0, 1.0), math.nan)
