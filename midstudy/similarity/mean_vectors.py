"""Cosine between the mean vectors of corpora: both sides of equal size, with bootstrap intervals and own-halves ceilings.

A row is the vector of one document, or of one block of documents. Each corpus has two halves; a pair is compared crosswise
and averaged (`halves.py`), and the ceiling of a corpus is the cosine of its own halves, so that every value is the cosine of
two means over equally many rows. The noise of a mean lowers its cosine with any other: only values of one size compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from midstudy.similarity.corpora import LEVEL, NUM_REPLICATES, Value

Rows = NDArray[np.floating]


@dataclass(frozen=True)
class ComparedVectors:
    """Cosines of all pairs, each pair once, and of the two halves of each corpus; `rows_per_side` stand on each side."""

    pairs: dict[tuple[str, str], Value]
    ceilings: dict[str, float]
    rows_per_side: int

    def value(self, left: str, right: str) -> Value:
        """Return the cosine of a pair in either order."""
        return self.pairs[left, right] if (left, right) in self.pairs else self.pairs[right, left]


def compare_vectors(rows: Mapping[str, Rows], *, seed: int = 0, num_replicates: int = NUM_REPLICATES) -> ComparedVectors:
    """Compare every pair of corpora.

    An interval is the value ± t · the standard deviation over bootstrap replicates of the rows of each half (Efron and
    Tibshirani 1993, sections 6 and 12), times √(m / (m − 1)) for m rows, cut at −1 and 1.

    Args:
        rows: by name of the corpus, of shape (number of rows, size), in random order; of each corpus equally many, at least
            4. Of an odd number the last is not used.

    Raises:
        ValueError: there are fewer than two corpora, shapes differ, there are fewer than 4 rows, or a mean is 0.
    """
    shapes = {name: one.shape for name, one in rows.items()}
    if len(rows) < 2 or len(set(shapes.values())) != 1:
        raise ValueError(f"expected several corpora with vectors of one shape, got {shapes}")
    size = next(iter(shapes.values()))[0] // 2
    if size < 2:
        raise ValueError(f"expected at least 4 vectors of each corpus, got {shapes}")
    halves = {name: (one[:size], one[size : 2 * size]) for name, one in rows.items()}
    rng = np.random.default_rng(seed)
    whole = np.full(size, 1 / size)  # the first row of weights: the sample itself
    weights = {
        name: [np.vstack([whole, rng.multinomial(size, whole, num_replicates) / size]) for _ in range(2)] for name in rows
    }
    squares = {
        name: [_products(half, half, weight, weight) for half, weight in zip(halves[name], weights[name], strict=True)]
        for name in rows
    }
    for name, (first, second) in squares.items():
        if not min(first[0], second[0]) > 0:
            raise ValueError(f"{name}: expected vectors with a mean other than 0, got one that has no direction")

    def cosines(left: str, right: str, first: int, second: int) -> NDArray[np.float64]:
        product = _products(halves[left][first], halves[right][second], weights[left][first], weights[right][second])
        return product / np.sqrt(squares[left][first] * squares[right][second])

    reach = float(stats.t.ppf((1 + LEVEL) / 2, size - 1)) * (size / (size - 1)) ** 0.5
    pairs = {}
    for left, right in combinations(rows, 2):
        both = (cosines(left, right, 0, 1) + cosines(left, right, 1, 0)) / 2
        value, half_width = float(both[0]), reach * float(np.std(both[1:], ddof=1))
        pairs[left, right] = Value(value, max(-1.0, value - half_width), min(1.0, value + half_width))
    return ComparedVectors(pairs, {name: float(cosines(name, name, 0, 1)[0]) for name in rows}, size)


def _products(first: Rows, second: Rows, left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the inner product of the two weighted sums of rows, for each row of weights; float64 of shape (weights,)."""
    gram = (first @ second.T).astype(np.float64)
    return np.einsum("ri,ri->r", left @ gram, right)
