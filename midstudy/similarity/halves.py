"""Comparisons between disjoint halves of samples, so that no document is compared with itself.

A corpus is part of the control, of every mix, and of a row and a column of the similarity matrix. Therefore each sample has
two halves, mixtures are formed from equal halves, and two samples are compared crosswise: first with second and second with
first, with the parts averaged. The result is symmetric, and both sides of every comparison have the same sample size. The
diagonal is not 1 but the similarity of two samples of the same corpus: the ceiling for all other values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from midstudy.similarity.distribution import Similarity, TokenDistribution, mix, similarity


@dataclass(frozen=True, eq=False)
class SplitSample:
    """Token distributions of two disjoint halves of one sample."""

    first: TokenDistribution
    second: TokenDistribution

    @classmethod
    def from_counts(cls, counts: ArrayLike) -> SplitSample:
        """Build a sample from counts of shape (2, vocab_size), as `token_counts` returns them.

        Raises:
            ValueError: the counts have another shape, one is negative, or a half is all zero.
        """
        halves = np.asarray(counts)
        if halves.ndim != 2 or halves.shape[0] != 2:
            raise ValueError(f"expected counts of shape (2, vocab_size), got {halves.shape}")
        return cls(TokenDistribution.from_counts(halves[0]), TokenDistribution.from_counts(halves[1]))


def mix_samples(parts: Sequence[tuple[SplitSample, float]]) -> SplitSample:
    """Mix samples half by half, with token shares that sum to 1."""
    return SplitSample(
        first=mix([(sample.first, share) for sample, share in parts]),
        second=mix([(sample.second, share) for sample, share in parts]),
    )


def compare_samples(left: SplitSample, right: SplitSample) -> Similarity:
    """Return the similarity between disjoint halves, with the parts averaged over both pairs of halves.

    `combined` is computed from the averaged parts.
    """
    forward = similarity(left.first, right.second)
    backward = similarity(left.second, right.first)
    return Similarity.from_parts(
        cosine=(forward.cosine + backward.cosine) / 2,
        jaccard=(forward.jaccard + backward.jaccard) / 2,
        jsd_nats=(forward.jsd_nats + backward.jsd_nats) / 2,
    )


def similarity_matrix(samples: Mapping[str, SplitSample]) -> dict[tuple[str, str], Similarity]:
    """Return the similarity of every pair of named samples, in both orders, including the diagonal."""
    names = list(samples)
    matrix: dict[tuple[str, str], Similarity] = {}
    for i, row in enumerate(names):
        for column in names[i:]:
            matrix[row, column] = matrix[column, row] = compare_samples(samples[row], samples[column])
    return {(row, column): matrix[row, column] for row in names for column in names}
