"""Exact measures between count distributions, for many pairs of rows at once.

With relative frequencies p and q, m = (p + q)/2, N units of a side and U different units of both sides:

    cosine          = p·q / (|p||q|)
    jaccard         = |V1 ∩ V2| / |V1 ∪ V2|                           over supports
    jsd_nats        = KL(p‖m)/2 + KL(q‖m)/2                           Lin 1991
    js              = 1 / (1 + jsd_nats);  js_distance = √jsd_nats
    hellinger       = √(Σ(√p − √q)² / 2)
    total_variation = Σ|p − q| / 2
    kl_nats         = KL(p'‖q') with p' = (count + ½) / (N + U/2)     half a count added to each unit of either side
    reverse_kl_nats = KL(q'‖p')
    combined        = 0.4 cosine + 0.3 jaccard + 0.3 js               arXiv 2510.14865

`cosine`, `jaccard`, `js` and `combined` are similarities, the others distances. Every measure is a function of sums over
units, so that vocabularies of any size are read in blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from midstudy.similarity.distribution import COSINE_SHARE, JACCARD_SHARE, JS_SHARE, LOG_2

SIMILARITIES = ("js", "combined", "cosine", "jaccard")
DISTANCES = ("jsd_nats", "js_distance", "hellinger", "total_variation", "kl_nats", "reverse_kl_nats")
MEASURES = (*SIMILARITIES, *DISTANCES)
BOUNDS: dict[str, tuple[float, float]] = {
    "js": (1 / (1 + LOG_2), 1.0),
    "combined": (JS_SHARE / (1 + LOG_2), 1.0),
    "cosine": (0.0, 1.0),
    "jaccard": (0.0, 1.0),
    "jsd_nats": (0.0, LOG_2),
    "js_distance": (0.0, LOG_2**0.5),
    "hellinger": (0.0, 1.0),
    "total_variation": (0.0, 1.0),
    "kl_nats": (0.0, np.inf),
    "reverse_kl_nats": (0.0, np.inf),
}
SMOOTHING = 0.5
"""Added to each count before a KL divergence: the Jeffreys prior (Krichevsky and Trofimov 1981)."""

_TINY = 1e-300  # keeps the logarithm of 0 finite; no frequency is so small that adding it changes a bit

Rows = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Side:
    """One side of comparisons over a block of units, with all that does not depend on the other side.

    `counts`, `probability`, `log_smoothed`: float64 of shape (rows, units). The other arrays have shape (rows,) or are as
    `counts`.
    """

    counts: Rows
    probability: Rows
    root: Rows
    seen: Rows
    log_smoothed: Rows
    square: NDArray[np.float64]
    entropy: NDArray[np.float64]
    num_seen: NDArray[np.float64]

    @classmethod
    def of(cls, counts: Rows, totals: NDArray[np.float64]) -> Side:
        """Build a side from counts of shape (rows, units) and the sums of the whole rows, of shape (rows,)."""
        p = counts / totals[:, None]
        seen = (counts > 0).astype(np.float64)
        return cls(
            counts=counts,
            probability=p,
            root=np.sqrt(p),
            seen=seen,
            log_smoothed=np.log(counts + SMOOTHING),
            square=_dot(p, p),
            entropy=-_dot(p, np.log(p + _TINY)),
            num_seen=seen.sum(axis=1),
        )


NUM_SUMS = 11


def block_sums(a: Side, b: Side) -> NDArray[np.float64]:
    """Return the sums of a pair over a block of units, of shape (11, rows); add them up over blocks."""
    p, q = a.probability, b.probability
    middle = (p + q) * 0.5
    difference = a.log_smoothed - b.log_smoothed
    return np.stack(
        [
            _dot(p, q), a.square, b.square,
            _dot(a.seen, b.seen), a.num_seen, b.num_seen,
            -_dot(middle, np.log(middle + _TINY)) - (a.entropy + b.entropy) / 2,
            _dot(a.root - b.root, a.root - b.root),
            np.abs(p - q).sum(axis=1),
            _dot(a.counts, difference) + SMOOTHING * difference.sum(axis=1),
            -_dot(b.counts, difference) - SMOOTHING * difference.sum(axis=1),
        ]
    )  # fmt: skip


def from_sums(
    sums: NDArray[np.float64], totals_a: NDArray[np.float64], totals_b: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return each measure, float64 of shape (rows,), from sums over all units and the numbers of units of both sides."""
    product, square_a, square_b, shared, num_a, num_b, jsd, root_square, l1, kl, reverse = sums
    union = num_a + num_b - shared
    # Rounding can exceed the mathematical bounds by some ulps.
    cosine = np.clip(product / np.sqrt(square_a * square_b), 0.0, 1.0)
    jsd = np.clip(jsd, 0.0, LOG_2)
    js = 1.0 / (1.0 + jsd)
    size_a, size_b = totals_a + SMOOTHING * union, totals_b + SMOOTHING * union
    ratio = np.log(size_a / size_b)
    jaccard = shared / union
    return {
        "js": js,
        "combined": COSINE_SHARE * cosine + JACCARD_SHARE * jaccard + JS_SHARE * js,
        "cosine": cosine,
        "jaccard": jaccard,
        "jsd_nats": jsd,
        "js_distance": np.sqrt(jsd),
        "hellinger": np.sqrt(np.minimum(root_square / 2, 1.0)),
        "total_variation": np.clip(l1 / 2, 0.0, 1.0),
        "kl_nats": np.maximum(kl / size_a - ratio, 0.0),
        "reverse_kl_nats": np.maximum(reverse / size_b + ratio, 0.0),
    }


def measures(first: ArrayLike, second: ArrayLike) -> dict[str, float]:
    """Return every measure between two rows of counts over the same units.

    Raises:
        ValueError: the shapes differ or are not (units,), a count is negative, or a row has only zeros.
    """
    rows = [np.asarray(counts, np.float64) for counts in (first, second)]
    if rows[0].ndim != 1 or rows[0].shape != rows[1].shape:
        raise ValueError(f"expected two rows of counts of one shape (units,), got {rows[0].shape} and {rows[1].shape}")
    if any((row < 0).any() or not row.any() for row in rows):
        raise ValueError("expected counts of at least 0 with a positive one in each row, got a negative count or only zeros")
    totals = [row.sum(keepdims=True) for row in rows]
    a, b = (Side.of(row[None], total) for row, total in zip(rows, totals, strict=True))
    return {name: float(value[0]) for name, value in from_sums(block_sums(a, b), *totals).items()}


def _dot(a: Rows, b: Rows) -> NDArray[np.float64]:
    return np.einsum("ru,ru->r", a, b)
