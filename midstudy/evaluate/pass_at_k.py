"""pass@k: the probability that one of k samples of an item is right, estimated from n samples (n >= k)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def pass_at_k(num_right: NDArray[np.int64], *, num_samples: int, k: int) -> NDArray[np.float64]:
    """Return the unbiased estimate of each item, of shape (num_items,): 1 - C(n - c, k) / C(n, k) for c right of n samples.

    Source: Chen et al., arXiv 2107.03374, equation 1.

    Args:
        num_right: number of right samples of each item, 0 to `num_samples`.
        k: from 1 to `num_samples`.
    """
    whole = math.comb(num_samples, k)
    return np.array([(whole - math.comb(num_samples - int(right), k)) / whole for right in num_right])
