"""Spend a study's error over several looks at a growing number of seeds.

A claim that is tested again whenever seeds are added is decided wrongly more often than one test is. Alpha spending (Lan and
DeMets, Biometrika 70, 1983) lets a share f(t) of the level be spent by the fraction t of the planned seeds, and so needs to
know neither the number of looks nor their times in advance. The function is theirs for boundaries like those of O'Brien and
Fleming (Biometrics 35, 1979): f(t) = 2 − 2Φ(z/√t) with z the upper α/2 point, for one side at level α; a two-sided test
spends f at α/2 on each side. Early looks get little, the last one nearly all.

Boundaries are those of a Brownian motion observed at the seeds of the looks, by the recursion of Armitage, McPherson and
Rowe (J. R. Stat. Soc. A 132, 1969). They are used as levels of p values, so t tests are compared with the level of the
normal boundary (Jennison and Turnbull, Group Sequential Methods, 2000, section 3.8).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from midstudy.analysis.decisions import ALPHA

_NUM_NODES = 160
_WIDEST = 8.5
"""Further from 0 than this, the density of the test statistic is neglected: 2e-17 of its mass."""
_LARGEST_ALPHA, _SMALLEST_ALPHA, _NUM_ALPHAS = 0.3, 1e-10, 28
"""The errors for which levels are computed; up to the largest one, a smaller error has lower levels at every look."""


def spent(alpha: float, fraction: float, *, sides: int) -> float:
    """Return the error that may be spent by a fraction, 0 to 1, of the planned seeds.

    Args:
        alpha: the level of the whole test.
        sides: 2 for a two-sided test, 1 for a one-sided one.
    """
    if fraction <= 0:
        return 0.0
    from scipy.special import ndtr, ndtri

    z = -float(ndtri(alpha / sides / 2))
    return sides * 2 * float(ndtr(-z / math.sqrt(min(1.0, fraction))))


def levels(alpha: float, fractions: Sequence[float], seeds: Sequence[float], *, sides: int = 2) -> NDArray[np.float64]:
    """Return the level of the p value at each look, shape (looks,); 0 where nothing is left to be spent.

    Args:
        alpha: the level of all looks together.
        fractions: of the planned seeds at each look, not decreasing; those above 1 count as 1.
        seeds: at each look, growing. They give the correlation of the test statistics: √(n₁/n₂) of looks with n₁ and n₂.
        sides: 2 for p values of two-sided tests, 1 for those of one-sided tests.

    Raises:
        ValueError: the looks do not grow, or are of different number.
    """
    sizes = np.asarray(seeds, dtype=np.float64)
    if len(fractions) != sizes.size or np.any(np.diff(sizes) <= 0) or np.any(np.diff(fractions) < 0) or np.any(sizes <= 0):
        raise ValueError(f"looks: expected growing seeds and fractions, got {list(seeds)} and {list(fractions)}")
    from scipy.special import ndtr, roots_legendre

    base, base_weights = roots_legendre(_NUM_NODES)
    found = np.zeros(sizes.size)
    nodes, weights, density = np.zeros(1), np.ones(1), np.ones(1)  # of the statistic before the first look: 0
    size_before = spent_before = 0.0
    for look, (fraction, size) in enumerate(zip(fractions, sizes, strict=True)):
        available = spent(alpha, fraction, sides=sides)
        scale = math.sqrt(size / (size - size_before))
        means = nodes * math.sqrt(size_before / (size - size_before))
        crossing = partial(_crossing, scale=scale, means=means, mass=weights * density, sides=sides)
        boundary = _boundary(crossing, available - spent_before)
        found[look] = sides * float(ndtr(-boundary))
        if look == sizes.size - 1:
            break
        high = min(boundary, _WIDEST)
        low = -high if sides == 2 else -_WIDEST
        now = (high - low) / 2 * base + (high + low) / 2
        kernel = np.exp(-0.5 * (now[:, None] * scale - means) ** 2) * scale / math.sqrt(2 * math.pi)
        density = kernel @ (weights * density)
        nodes, weights = now, (high - low) / 2 * base_weights
        size_before, spent_before = float(size), max(spent_before, available)
    return found


def corrected_for_looks(
    p_values: ArrayLike, fractions: Sequence[float], seeds: Sequence[float], *, sides: int = 2
) -> NDArray[np.float64]:
    """Return p values of the last look corrected for all looks: the smallest error of all looks at which each rejects.

    They are compared with the level of the whole study, and can be corrected by Holm's method: each step then spends its own
    level over the looks (Maurer and Bretz, Stat. Biopharm. Res. 5, 2013). Below 1e-10 they are 1e-10. Those above 0.3 are
    the larger of 0.3 and p. NaN stays NaN. For the arguments see `levels`.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if len(fractions) == 1 and fractions[0] >= 1:
        return p
    alphas, at_last = _levels_by_alpha(tuple(map(float, fractions)), tuple(map(float, seeds)), sides)
    known = at_last > 0
    if known.sum() < 2:  # everything was spent before, or the look is too early to be given anything
        return np.where(np.isnan(p), math.nan, 1.0)
    from scipy.interpolate import PchipInterpolator
    from scipy.special import ndtr, ndtri

    curve = PchipInterpolator(-ndtri(at_last[known][::-1]), -ndtri(alphas[known][::-1]), extrapolate=False)
    inside = np.clip(p, at_last[known][0], at_last[-1])
    corrected = ndtr(-curve(-ndtri(inside)))
    return np.where(np.isnan(p), math.nan, np.where(p > at_last[-1], np.maximum(p, _LARGEST_ALPHA), corrected))


@cache
def _levels_by_alpha(
    fractions: tuple[float, ...], seeds: tuple[float, ...], sides: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return growing errors and the last look's level at each of them."""
    alphas = np.union1d(np.geomspace(_SMALLEST_ALPHA, _LARGEST_ALPHA, _NUM_ALPHAS), ALPHA)  # the usual level is exact
    return alphas, np.array([levels(float(alpha), fractions, seeds, sides=sides)[-1] for alpha in alphas])


def _crossing(boundary: float, *, scale: float, means: NDArray[np.float64], mass: NDArray[np.float64], sides: int) -> float:
    """Return the probability to cross the boundary at a look and at none before it."""
    from scipy.special import ndtr

    above = ndtr(means - boundary * scale)
    below = ndtr(-boundary * scale - means) if sides == 2 else 0.0
    return float(np.sum(mass * (above + below)))


def _boundary(crossing: Callable[[float], float], error: float) -> float:
    """Return where the probability to cross is `error`; infinity for no error."""
    if not error > 1e-17:
        return math.inf
    from scipy.optimize import brentq

    high = 1.0
    while crossing(high) > error:
        high *= 2
    return float(brentq(lambda boundary: crossing(boundary) - error, -1.0, high, xtol=1e-12, rtol=1e-14))
