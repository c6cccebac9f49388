"""The authors' procedure against a transcription of its formulas with Counters, and its difference from the definitions."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstudy.similarity.distribution import TokenDistribution, similarity
from midstudy.similarity.published import EPSILON, PublishedCounts, published_similarity

VOCAB = 9
TOKENS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=60)


def by_counters(first: list[int], second: list[int], limit: int) -> dict[str, float]:
    """The published formulas on dictionaries, term by term."""
    a, b = (dict(Counter(tokens).most_common(limit)) for tokens in (first, second))
    union = sorted(a.keys() | b.keys())
    shared = len(a.keys() & b.keys())
    p = [a.get(token, 0) / (sum(a.values()) + 1e-10) for token in union]
    q = [b.get(token, 0) / (sum(b.values()) + 1e-10) for token in union]
    cosine = sum(x * y for x, y in zip(p, q, strict=True)) / (math.hypot(*p) * math.hypot(*q) + 1e-10)
    middle = [0.5 * (x + y) for x, y in zip(p, q, strict=True)]
    kl = [sum(x * math.log(x / (m + 1e-10) + 1e-10) for x, m in zip(side, middle, strict=True)) for side in (p, q)]
    js = 1 / (1 + 0.5 * (kl[0] + kl[1]))
    jaccard = shared / len(union)
    return {
        "combined": 0.4 * cosine + 0.3 * jaccard + 0.3 * js,
        "cosine": cosine,
        "jaccard": jaccard,
        "js": js,
        "overlap": shared / min(len(a), len(b)),
    }


def published(first: list[int], second: list[int], limit: int = 50_000) -> dict[str, float]:
    sides = [PublishedCounts.of(np.array(tokens), VOCAB, max_ids=limit) for tokens in (first, second)]
    return vars(published_similarity(*sides))


@given(first=TOKENS, second=TOKENS, limit=st.integers(1, VOCAB))
def test_agrees_with_the_published_formulas_to_their_constants(first: list[int], second: list[int], limit: int) -> None:
    # The tolerance is far below the constants' effect, about 1e-10.
    assert published(first, second, limit) == pytest.approx(by_counters(first, second, limit), abs=1e-14)


def test_the_constants_are_seen() -> None:
    assert EPSILON == 1e-10
    found = published([0, 1, 1], [0, 1, 1])
    assert 1e-11 < 1.0 - found["cosine"] < 1e-9
    exact = similarity(*(TokenDistribution.from_counts([1, 2]) for _ in range(2)))
    assert found["combined"] != exact.combined
    assert found["combined"] == pytest.approx(exact.combined, abs=1e-8)


def test_ties_at_the_limit_go_to_the_id_that_occurs_first() -> None:
    kept = PublishedCounts.of(np.array([5, 2, 2, 7, 1]), VOCAB, max_ids=2)
    assert np.flatnonzero(kept.counts).tolist() == [2, 5]
    assert kept.num_tokens == 5


@pytest.mark.parametrize("tokens", [[], [VOCAB], [-1]])
def test_other_tokens_are_rejected(tokens: list[int]) -> None:
    with pytest.raises(ValueError, match="expected token"):
        PublishedCounts.of(np.array(tokens, np.int64), VOCAB)


def test_two_vocabularies_are_rejected() -> None:
    sides = [PublishedCounts.of(np.array([0]), size) for size in (3, 4)]
    with pytest.raises(ValueError, match="expected counts over one vocabulary, got sizes 3 and 4"):
        published_similarity(*sides)
