"""Comparisons between disjoint halves of samples, so that a text never counts as similar to itself.

A corpus is in the control, in every mix, and in the similarity matrix's row and column. Each sample is therefore kept
as two halves, mixtures are formed half by half, and two samples are compared across: first with second, second with
first, parts averaged. The result is symmetric, every comparison has the same sample size on both sides, and the
diagonal is not 1 but what two draws of the same corpus reach: the ceiling that the other values are to be read against.
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
        """From counts of shape (2, vocab_size), as ``token_counts`` returns them."""
        halves = np.asarray(counts)
        if halves.ndim != 2 or halves.shape[0] != 2:
            raise ValueError(f"counts of a split sample have shape (2, vocab_size), found {halves.shape}")
        return cls(TokenDistribution.from_counts(halves[0]), TokenDistribution.from_counts(halves[1]))


def mix_samples(parts: Sequence[tuple[SplitSample, float]]) -> SplitSample:
    """Mix samples half by half with token shares that sum to 1."""
    return SplitSample(
        first=mix([(sample.first, share) for sample, share in parts]),
        second=mix([(sample.second, share) for sample, share in parts]),
    )


def compare_samples(one: SplitSample, other: SplitSample) -> Similarity:
    """Similarity between disjoint halves, the parts averaged over both ways of crossing them.

    ``combined`` is computed from the averaged parts.
    """
    forward = similarity(one.first, other.second)
    backward = similarity(one.second, other.first)
    return Similarity.from_parts(
        cosine=(forward.cosine + backward.cosine) / 2,
        jaccard=(forward.jaccard + backward.jaccard) / 2,
        jsd_nats=(forward.jsd_nats + backward.jsd_nats) / 2,
    )


def similarity_matrix(samples: Mapping[str, SplitSample]) -> dict[tuple[str, str], Similarity]:
    """Similarity of every pair of named samples, in both orders, with the diagonal."""
    names = list(samples)
    matrix: dict[tuple[str, str], Similarity] = {}
    for i, row in enumerate(names):
        for column in names[i:]:
            matrix[row, column] = matrix[column, row] = compare_samples(samples[row], samples[column])
    return {(row, column): matrix[row, column] for row in names for column in names}
