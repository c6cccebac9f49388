"""Convex weights of experts whose mixture gives a target the lowest loss (MixMin, arXiv 2502.10510, section 4).

    minimise over w >= 0, sum w = 1:   mean over items i of  −(1 / n_i) · log Σ_k w_k · p_k(i)

with p_k(i) the probability of item i (a whole sequence of n_i tokens) by expert k, as in the authors' code. The problem is
convex in w. MixMin descends by exponentiated gradient; here each step is the expectation-maximisation step for mixture
weights, which never raises the loss and needs no step size. It stops at a certificate: by convexity the loss at w is above
the minimum by at most max_k g_k − c, where g_k is the mean of p_k / (n_i · Σ_j w_j p_j) and c the mean of 1 / n_i.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOLERANCE_NATS = 1e-6
_MAX_STEPS = 100_000


@dataclass(frozen=True, eq=False)
class ConvexWeights:
    """Weights of shape (experts,), the mixture's loss in nats per token, and how far it is from the minimum at most."""

    weights: NDArray[np.float64]
    loss_nats: float
    gap_nats: float


def convex_weights(
    nats: NDArray[np.float64], num_tokens: NDArray[np.float64], *, tolerance_nats: float = TOLERANCE_NATS
) -> ConvexWeights:
    """Return the weights with the lowest loss.

    Args:
        nats: of each item by each expert, of shape (experts, items).
        num_tokens: of each item, of shape (items,), above 0.
        tolerance_nats: the largest distance from the minimal loss.

    Raises:
        ValueError: there is no expert or item, a number is not finite, or an item has no tokens.
    """
    if nats.ndim != 2 or not nats.size or num_tokens.shape != nats.shape[1:]:
        raise ValueError(
            f"expected nats (experts, items) and tokens (items,) with at least one of each, got {nats.shape} and "
            f"{num_tokens.shape}"
        )
    if not np.isfinite(nats).all() or not (num_tokens > 0).all():
        raise ValueError("expected finite nats and items of at least one token, got others")
    lowest = nats.min(axis=0)
    relative = np.exp(lowest - nats)  # of the best expert of each item, in (0, 1]
    item_weights = 1 / (num_tokens * num_tokens.size)
    total = float(item_weights.sum())
    weights = np.full(len(nats), 1 / len(nats))
    for _ in range(_MAX_STEPS):
        mixed = weights @ relative
        ascent = relative @ (item_weights / mixed)
        gap = float(ascent.max()) - total
        if gap <= tolerance_nats:
            break
        weights = weights * ascent / total
        weights /= weights.sum()
    return ConvexWeights(weights, float(item_weights @ (lowest - np.log(weights @ relative))), gap)
