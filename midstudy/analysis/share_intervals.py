"""Intervals of shares of items, such as accuracies: of one state, and of the change between two states on the same items."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from midstudy.analysis.intervals import CONFIDENCE


def wilson_interval(share: float, num_items: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share (Wilson, JASA 22, 1927, without continuity correction).

    Where a share is a mean of several samples of each item, which vary less than single ones, the interval is too wide.

    Args:
        share: of the items that are right, 0 to 1; of NaN the interval is NaN.
    """
    if math.isnan(share):
        return math.nan, math.nan
    z_squared = _z() ** 2
    centre = (share + z_squared / (2 * num_items)) / (1 + z_squared / num_items)
    variance = share * (1 - share) / num_items + z_squared / (4 * num_items**2)
    half_width = math.sqrt(z_squared * variance) / (1 + z_squared / num_items)
    # At the ends, one limit is exactly 0 or 1.
    low = 0.0 if share == 0 else max(0.0, centre - half_width)
    return low, 1.0 if share == 1 else min(1.0, centre + half_width)


@dataclass(frozen=True)
class PairedChange:
    """The change of a share from one state to another on the same items: positive if the second is more often right.

    `num_better` items are right more often at the second state, `num_worse` at the first. `p_value` is that of the
    hypothesis that both are equally likely. `centre` and `error` are the middle of the interval and its standard error.
    """

    change: float
    low: float
    high: float
    p_value: float
    num_better: int
    num_worse: int
    num_items: int
    centre: float
    error: float


def paired_change(first: ArrayLike, second: ArrayLike) -> PairedChange:
    """Return the change from `first` to `second`, with a 95 % interval over items and the exact test of McNemar.

    The interval is that of Agresti and Min (Statistics in Medicine 24, 2005): Wald's, after half an item is added to each of
    the four cells of right and wrong. McNemar's test (Psychometrika 12, 1947) is a sign test of the items that differ, so
    both apply to means of several samples of each item, too.

    Args:
        first, second: 1 or 0 for each item (or means of samples), of shape (num_items,), in the same order.

    Raises:
        ValueError: the shapes differ, there are no items, or a value is outside [0, 1].
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.ndim != 1 or a.shape != b.shape or not a.size:
        raise ValueError(f"expected two values for each of at least one item, got shapes {a.shape} and {b.shape}")
    if not all(((values >= 0) & (values <= 1)).all() for values in (a, b)):
        raise ValueError("expected values of 0 to 1, got others; leave out items that are not measured")
    differences = b - a
    total, number = float(differences.sum()), a.size + 2
    centre = total / number
    error = math.sqrt(float((differences**2).sum()) + 1 - total**2 / number) / number
    half_width = _z() * error
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    return PairedChange(
        change=total / a.size,
        low=max(-1.0, centre - half_width),
        high=min(1.0, centre + half_width),
        p_value=_sign_test(better, worse),
        num_better=better,
        num_worse=worse,
        num_items=a.size,
        centre=centre,
        error=error,
    )


def _sign_test(better: int, worse: int) -> float:
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(better, worse), better + worse, 0.5))) if better + worse else 1.0


def _z() -> float:
    from scipy.special import ndtri

    return float(ndtri((1 + CONFIDENCE) / 2))
