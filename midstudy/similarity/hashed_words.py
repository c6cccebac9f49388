"""Hashed word 1- and 2-grams of a text: 10,000 counts, as in DSIR (Xie et al. 2023, arXiv 2302.03169, section 3).

Words are lower-cased and split at white space. Distributions of 10,000 bins are compared by `distribution.similarity`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from midstudy.similarity.units import Grams, symbols_of

NUM_BINS = 10_000
_ORDERS = (Grams("words", 1), Grams("words", 2))


def bin_counts(texts: Sequence[str]) -> NDArray[np.int64]:
    """Return the number of units in each bin, int64 of shape (10000,)."""
    counts = np.zeros(NUM_BINS, np.int64)
    words = symbols_of("words", texts)
    for order in _ORDERS:
        keys, _ = order.keys_of(words)
        counts += np.bincount((keys % np.uint64(NUM_BINS)).astype(np.int64), minlength=NUM_BINS)
    return counts


def log_importance(target: NDArray[np.int64], general: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return log (p_target / p_general) of each bin, with one unit added to every bin; float64 of shape (10000,)."""
    p, q = ((counts + 1) / (counts.sum() + NUM_BINS) for counts in (target, general))
    return np.log(p / q)


def mean_importance(texts: Sequence[str], log_ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean log importance of each text's units, float64 of shape (texts,); −inf for a text without words."""
    sums, numbers = np.zeros(len(texts)), np.zeros(len(texts))
    words = symbols_of("words", texts)
    for order in _ORDERS:
        keys, lengths = order.keys_of(words)
        owners = np.repeat(np.arange(len(texts)), lengths)
        sums += np.bincount(owners, log_ratio[(keys % np.uint64(NUM_BINS)).astype(np.int64)], minlength=len(texts))
        numbers += lengths
    return np.where(numbers > 0, sums / np.maximum(numbers, 1), -np.inf)
