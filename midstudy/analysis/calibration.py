"""From a score of a corpus to the improvement to expect: calibrated on finished studies, its error that of studies left out.

The prediction is a line through zero, improvement = slope × score, fitted by least squares with equal weight for every
study. Its error is measured by leaving whole studies out, since pairs of one study share trunks, text and fine-tuning. The
interval is split conformal (Vovk, Gammerman and Shafer 2005, section 4.1; Papadopoulos et al. 2002) on the absolute
residuals of the studies left out: the ⌈(n + 1) · coverage⌉-th smallest of n. Its guarantee needs exchangeable pairs, and
pairs of one study are not; `benchmarks/recommend.py` therefore counts how often it covers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_STUDIES = 3
COVERAGE = 0.8

Pairs = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Scores and realised improvements of one study's pairs, each of shape (pairs,)."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """An expected relative improvement with its interval, all fractions. `is_extrapolation`: the score was never seen."""

    improvement: float
    low: float
    high: float
    is_extrapolation: bool


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A fitted line with its error. `half_width` is infinite if there are too few pairs for the coverage."""

    slope: float
    half_width: float
    lowest_score: float
    highest_score: float
    num_studies: int
    num_pairs: int

    def expected(self, score: float) -> Expected:
        """Return the improvement that a score lets expect."""
        improvement = self.slope * score
        return Expected(
            improvement=improvement,
            low=improvement - self.half_width,
            high=improvement + self.half_width,
            is_extrapolation=not self.lowest_score <= score <= self.highest_score,
        )


def calibrate(studies: Mapping[str, Pairs]) -> Calibration | None:
    """Return the calibration on all studies; `None` with fewer than `MIN_STUDIES` that have pairs.

    Args:
        studies: pairs by study; a study without pairs does not count.
    """
    known = [pairs for pairs in studies.values() if pairs[0].size]
    if len(known) < MIN_STUDIES:
        return None
    residuals = np.concatenate(
        [
            np.abs(y - slope_of([other for other in known if other is not one]) * x)
            for one in known
            for x, y in [one]
        ]
    )  # fmt: skip
    scores = np.concatenate([x for x, _ in known])
    return Calibration(
        slope=slope_of(known),
        half_width=conformal_half_width(residuals),
        lowest_score=float(scores.min()),
        highest_score=float(scores.max()),
        num_studies=len(known),
        num_pairs=scores.size,
    )


def slope_of(studies: Sequence[Pairs]) -> float:
    """Return the least-squares slope through zero, with equal weight for every study; 0 if all scores are 0."""
    products = sum(float(np.mean(x * y)) for x, y in studies)
    squares = sum(float(np.mean(x * x)) for x, _ in studies)
    return products / squares if squares else 0.0


def conformal_half_width(residuals: NDArray[np.float64], *, coverage: float = COVERAGE) -> float:
    """Return the ⌈(n + 1) · coverage⌉-th smallest of n absolute residuals; infinite if n is too small for it."""
    rank = math.ceil((residuals.size + 1) * coverage - 1e-12)
    return float(np.sort(residuals)[rank - 1]) if rank <= residuals.size else math.inf
