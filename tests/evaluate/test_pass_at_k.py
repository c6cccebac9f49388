"""pass@k from n samples, against every draw of k of them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstudy.evaluate.pass_at_k import pass_at_k


@given(st.integers(1, 8), st.data())
def test_the_estimate_is_the_share_of_draws_with_a_right_sample(num_samples: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, num_samples))
    right = np.array(data.draw(st.lists(st.integers(0, num_samples), min_size=1, max_size=5)), np.int64)
    shares = []
    for number in right:
        draws = list(combinations([True] * int(number) + [False] * (num_samples - int(number)), k))
        shares.append(sum(map(any, draws)) / len(draws))
    assert pass_at_k(right, num_samples=num_samples, k=k).tolist() == pytest.approx(shares)


def test_the_estimate_is_unbiased() -> None:
    """Of samples that are right with probability 0.2, one of three is right with probability 1 - 0.8³."""
    n, p, k = 7, 0.2, 3
    right = np.random.default_rng(0).binomial(n, p, size=40_000)
    assert pass_at_k(right, num_samples=n, k=k).mean() == pytest.approx(1 - (1 - p) ** k, abs=0.005)


def test_many_samples_do_not_overflow() -> None:
    assert pass_at_k(np.array([0, 1, 1000]), num_samples=1000, k=500).tolist() == [0.0, 0.5, 1.0]
