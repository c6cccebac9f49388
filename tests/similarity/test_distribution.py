"""Similarity of token distributions against scipy, hand calculation and the paper; exact mixtures; properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial import distance

from midstudy.similarity.distribution import LOG_2, Similarity, TokenDistribution, mix, similarity

VOCAB = 12
counts_of_a_text = arrays(np.int64, VOCAB, elements=st.integers(0, 1_000)).filter(lambda c: c.any())
distributions = counts_of_a_text.map(TokenDistribution.from_counts)


def test_hand_calculation() -> None:
    # p = (1/2, 1/2, 0), q = (1/2, 0, 1/2), m = (1/2, 1/4, 1/4): each divergence is ½·ln 1 + ½·ln 2.
    result = similarity(TokenDistribution.from_counts([3, 3, 0]), TokenDistribution.from_counts([5, 0, 5]))
    assert result.cosine == pytest.approx(0.5)
    assert result.jaccard == pytest.approx(1 / 3)
    assert result.jsd_nats == pytest.approx(0.5 * math.log(2))
    assert result.combined == pytest.approx(0.4 * 0.5 + 0.3 / 3 + 0.3 / (1 + 0.5 * math.log(2)))


def test_disjoint_supports_give_the_papers_minimum_not_zero() -> None:
    result = similarity(TokenDistribution.from_counts([1, 2, 0, 0]), TokenDistribution.from_counts([0, 0, 3, 1]))
    assert (result.cosine, result.jaccard) == (0.0, 0.0)
    assert result.jsd_nats == pytest.approx(LOG_2)
    assert result.js == pytest.approx(0.5906, abs=5e-5)
    assert result.combined == pytest.approx(0.177, abs=5e-4)


@given(p=distributions, q=distributions)
def test_agrees_with_scipy(p: TokenDistribution, q: TokenDistribution) -> None:
    result = similarity(p, q)
    assert result.jsd_nats == pytest.approx(distance.jensenshannon(p.probability, q.probability) ** 2, abs=1e-12)
    assert result.cosine == pytest.approx(1 - distance.cosine(p.probability, q.probability), abs=1e-12)
    assert result.jaccard == pytest.approx(1 - distance.jaccard(p.support, q.support))


@given(p=distributions, q=distributions)
def test_is_symmetric_to_the_last_bit_and_stays_in_its_ranges(p: TokenDistribution, q: TokenDistribution) -> None:
    result = similarity(p, q)
    assert result == similarity(q, p)
    assert 0 <= result.cosine <= 1
    assert 0 <= result.jaccard <= 1
    assert 0 <= result.jsd_nats <= LOG_2
    assert 0.3 / (1 + LOG_2) <= result.combined <= 1 + 1e-12


@given(p=distributions)
def test_the_similarity_of_a_distribution_to_itself_is_1(p: TokenDistribution) -> None:
    result = similarity(p, p)
    assert (result.cosine, result.jaccard, result.jsd_nats) == (pytest.approx(1), 1.0, 0.0)
    assert result.combined == pytest.approx(1)


def test_unseen_ids_add_no_bias() -> None:
    # With a constant of 1e-10 inside the logarithm, as in the authors' code, equal sparse texts diverge measurably.
    sparse = TokenDistribution.from_counts([1, *([0] * 50_000), 1])
    assert similarity(sparse, sparse).jsd_nats == 0.0


@given(p=distributions, q=distributions, share=st.floats(0, 1))
def test_a_mixture_is_the_weighted_sum(p: TokenDistribution, q: TokenDistribution, share: float) -> None:
    mixed = mix([(p, share), (q, 1 - share)])
    np.testing.assert_allclose(mixed.probability, share * p.probability + (1 - share) * q.probability, atol=1e-15)


@given(p=distributions, q=distributions)
def test_a_mixtures_end_points_are_its_parts(p: TokenDistribution, q: TokenDistribution) -> None:
    assert np.array_equal(mix([(p, 1.0), (q, 0.0)]).probability, p.probability)
    assert np.array_equal(mix([(p, 0.0), (q, 1.0)]).probability, q.probability)


@given(p=distributions, q=distributions, share=st.floats(0.001, 0.999))
def test_a_mixtures_support_is_the_union_at_any_positive_share(
    p: TokenDistribution, q: TokenDistribution, share: float
) -> None:
    assert np.array_equal(mix([(p, share), (q, 1 - share)]).support, p.support | q.support)


def test_a_20_percent_mix_is_20_percent_whatever_the_sample_sizes() -> None:
    # Concatenating documents would give 1:1 here, the hazard of the authors' capped control sample.
    code, general = TokenDistribution.from_counts([1_000, 0]), TokenDistribution.from_counts([0, 1_000])
    assert mix([(code, 0.2), (general, 0.8)]).probability.tolist() == [0.2, 0.8]


@pytest.mark.parametrize("shares", [(0.5, 0.4), (-0.1, 1.1), (math.nan, 1.0)])
def test_invalid_mixture_shares_are_rejected(shares: tuple[float, float]) -> None:
    p = TokenDistribution.from_counts([1, 1])
    with pytest.raises(ValueError, match="expected non-negative mixture shares that sum to 1, got"):
        mix([(p, shares[0]), (p, shares[1])])


def test_different_vocabularies_are_rejected() -> None:
    p, q = TokenDistribution.from_counts([1, 1]), TokenDistribution.from_counts([1, 1, 1])
    with pytest.raises(ValueError, match=r"expected distributions over one vocabulary, got sizes \[2, 3\]"):
        similarity(p, q)
    with pytest.raises(ValueError, match=r"expected distributions over one vocabulary, got sizes \[2, 3\]"):
        mix([(p, 0.5), (q, 0.5)])


def test_only_the_most_frequent_ids_are_kept() -> None:
    kept = TokenDistribution.from_counts([5, 1, 3, 3, 3], max_ids=3)
    assert kept.probability.tolist() == [5 / 11, 0, 3 / 11, 3 / 11, 0]  # ties go to the lower id


@pytest.mark.parametrize("counts", [[0, 0], [-1, 2], [[1, 2], [3, 4]]])
def test_invalid_counts_are_rejected(counts: list) -> None:
    with pytest.raises(ValueError, match=r"expected (counts|a positive count)"):
        TokenDistribution.from_counts(counts)


def test_probabilities_that_do_not_sum_to_1_are_rejected() -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        TokenDistribution(np.array([0.5, 0.4]))


def test_the_papers_weights_of_the_parts() -> None:
    assert Similarity.from_parts(cosine=1, jaccard=0, jsd_nats=1).combined == pytest.approx(0.4 + 0.15)
    assert Similarity.from_parts(cosine=0, jaccard=1, jsd_nats=1).combined == pytest.approx(0.3 + 0.15)
