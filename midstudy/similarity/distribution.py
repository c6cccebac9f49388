"""Token distributions, their exact mixtures, and the paper's combined similarity with its three parts.

Formulas: arXiv 2510.14865, github.com/nightingal3/midtraining `util_scripts/dataset_similarity_syntactic.py`:

    cosine   = p·q / (|p||q|)
    jaccard  = |V1 ∩ V2| / |V1 ∪ V2|            over supports
    jsd      = KL(p‖m)/2 + KL(q‖m)/2, m = (p+q)/2   in nats
    combined = 0.4 cosine + 0.3 jaccard + 0.3 / (1 + jsd)

Differences from the authors' code, which follow the definitions more closely: terms with p = 0 are left out of the
divergence, where the authors add a small constant inside the logarithm, which biases it. The 1e-10 in the cosine's
denominator is dropped, since a distribution's norm is never zero. Mixtures are weighted analytically, not by concatenating
documents: the authors' code caps the general sample, so that a 5 % and a 20 % mix both become 50 %.

Jaccard compares *supports*, the sets of ids that occur at least once. A support grows with the sample, so Jaccard values are
comparable only between distributions counted over equally many tokens. A mixture's support is the union of its parts'
supports for any positive shares: it is the same at 1 % and at 99 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

COSINE_SHARE = 0.4
JACCARD_SHARE = 0.3
JS_SHARE = 0.3
MAX_IDS_PER_SIDE = 50_000  # the authors' limit; almost without effect for Pythia's 50,277 ids
LOG_2 = math.log(2.0)


@dataclass(frozen=True)
class Similarity:
    """The similarity of two token distributions.

    `cosine` and `jaccard` lie in [0, 1], `jsd_nats` in [0, ln 2], `combined` in [0.3/(1 + ln 2), 1]: disjoint supports give
    0.177, not 0.
    """

    cosine: float
    jaccard: float
    jsd_nats: float
    combined: float

    @classmethod
    def from_parts(cls, *, cosine: float, jaccard: float, jsd_nats: float) -> Similarity:
        """Return the similarity with these parts, combined as in the paper."""
        combined = COSINE_SHARE * cosine + JACCARD_SHARE * jaccard + JS_SHARE / (1.0 + jsd_nats)
        return cls(cosine=cosine, jaccard=jaccard, jsd_nats=jsd_nats, combined=combined)

    @property
    def js(self) -> float:
        """Jensen-Shannon similarity 1 / (1 + JSD), from 0.591 (disjoint) to 1 (equal)."""
        return 1.0 / (1.0 + self.jsd_nats)


@dataclass(frozen=True, eq=False)
class TokenDistribution:
    """Relative frequencies of token ids: `probability` is float64 of shape (vocab_size,) and sums to 1."""

    probability: NDArray[np.float64]

    def __post_init__(self) -> None:
        p = self.probability
        if p.ndim != 1 or not np.isfinite(p).all() or (p < 0).any() or abs(p.sum() - 1.0) > 1e-9:
            raise ValueError(
                f"expected a token distribution, one row of non-negative numbers that sum to 1, got shape {p.shape}, "
                f"minimum {p.min() if p.size else 'none'}, sum {p.sum()}"
            )

    @classmethod
    def from_counts(cls, counts: ArrayLike, *, max_ids: int = MAX_IDS_PER_SIDE) -> TokenDistribution:
        """Normalise counts of shape (vocab_size,), keeping the `max_ids` most frequent ids (ties: the lower id).

        Raises:
            ValueError: the counts have another shape, one is negative, or all are zero.
        """
        values = np.asarray(counts)
        if values.ndim != 1:
            raise ValueError(f"expected counts of shape (vocab_size,), got {values.shape}; pass one half at a time")
        if (values < 0).any():
            raise ValueError(f"expected counts of at least 0, got {values.min()}")
        if not values.any():
            raise ValueError("expected a positive count, got only zeros: the sample has no tokens")
        if np.count_nonzero(values) > max_ids:
            kept = np.argsort(-values, kind="stable")[:max_ids]
            values = np.where(np.isin(np.arange(values.size), kept), values, 0)
        return cls(values / values.sum())

    @property
    def support(self) -> NDArray[np.bool_]:
        """Ids with a positive probability: bool of shape (vocab_size,)."""
        return self.probability > 0


def mix(parts: Sequence[tuple[TokenDistribution, float]]) -> TokenDistribution:
    """Return the distribution of a mixture with the given token shares: Σ share · distribution.

    Raises:
        ValueError: there is no part, a share is negative, the shares do not sum to 1, or vocabularies differ.
    """
    if not parts:
        raise ValueError("expected at least one part of a mixture, got none")
    shares = [share for _, share in parts]
    if any(not math.isfinite(share) or share < 0 for share in shares) or abs(sum(shares) - 1.0) > 1e-9:
        raise ValueError(f"expected non-negative mixture shares that sum to 1, got {shares}")
    _require_one_vocabulary([distribution for distribution, _ in parts])
    total = np.zeros_like(parts[0][0].probability)
    for distribution, share in parts:
        total += share * distribution.probability
    return TokenDistribution(total)


def similarity(first: TokenDistribution, second: TokenDistribution) -> Similarity:
    """Return the similarity of two distributions over the same vocabulary; symmetric to the last bit.

    Raises:
        ValueError: the vocabularies differ.
    """
    _require_one_vocabulary([first, second])
    p, q = first.probability, second.probability
    cosine = float(p @ q) / (math.sqrt(float(p @ p)) * math.sqrt(float(q @ q)))
    p_seen, q_seen = first.support, second.support
    jaccard = int((p_seen & q_seen).sum()) / int((p_seen | q_seen).sum())
    middle = (p + q) / 2
    jsd = (_divergence_nats(p, middle) + _divergence_nats(q, middle)) / 2
    # Rounding can exceed the mathematical bounds by an ulp.
    return Similarity.from_parts(cosine=min(cosine, 1.0), jaccard=jaccard, jsd_nats=min(max(jsd, 0.0), LOG_2))


def _divergence_nats(p: NDArray[np.float64], m: NDArray[np.float64]) -> float:
    seen = p > 0
    return float(np.sum(p[seen] * np.log(p[seen] / m[seen])))


def _require_one_vocabulary(distributions: Sequence[TokenDistribution]) -> None:
    sizes = sorted({distribution.probability.size for distribution in distributions})
    if len(sizes) > 1:
        raise ValueError(f"expected distributions over one vocabulary, got sizes {sizes}; tokenize with one tokenizer")
