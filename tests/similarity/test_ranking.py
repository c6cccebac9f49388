"""Ranking of planted gains: order, groups, the probability of being best, and intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest

from midstudy.similarity.expert_gain import Gain
from midstudy.similarity.ranking import rank

BYTES = np.full(100, 50)
NOISE = np.random.default_rng(0).normal(0, 1, 100)
PLACEBO = Gain(np.zeros(100), 0.0)


def gain(bits_per_byte: float, *, noise: np.ndarray = NOISE, error: float = 0.001) -> Gain:
    return Gain(50 * bits_per_byte + noise - noise.mean(), error)


def ranked(**gains: Gain) -> dict[str, object]:
    return {one.name: one for one in rank(gains, placebo=PLACEBO, bytes_by_document=BYTES)}


def test_the_largest_gain_is_first_and_decided_ones_have_groups_of_their_own() -> None:
    found = rank({"low": gain(0.01), "high": gain(0.05)}, placebo=PLACEBO, bytes_by_document=BYTES)
    assert [(one.name, one.group) for one in found] == [("high", 1), ("low", 2)]
    assert found[0].gain == pytest.approx(0.05)
    assert found[0].probability_best == 1
    assert found[1].over_placebo_low > 0


def test_equal_candidates_are_one_group_with_equal_probabilities() -> None:
    found = rank({"a": gain(0.03), "b": gain(0.03)}, placebo=PLACEBO, bytes_by_document=BYTES)
    assert [one.group for one in found] == [1, 1]
    assert found[0].probability_best == pytest.approx(0.5, abs=0.05)


def test_a_difference_is_paired_by_dev_documents() -> None:
    """Both intervals overlap widely, but the documents move both alike."""
    noise = 20 * NOISE
    found = rank({"a": gain(0.05, noise=noise), "b": gain(0.04, noise=noise)}, placebo=PLACEBO, bytes_by_document=BYTES)
    assert found[1].high > found[0].gain
    assert [one.group for one in found] == [1, 2]


def test_a_candidate_with_a_large_error_of_its_own_is_in_the_group_of_the_leader() -> None:
    found = rank({"leader": gain(0.05), "rough": gain(0.03, error=0.02)}, placebo=PLACEBO, bytes_by_document=BYTES)
    assert [one.group for one in found] == [1, 1]
    assert found[1].high - found[1].low > 10 * (found[0].high - found[0].low)


def test_intervals_cover_the_truth_of_resampled_documents() -> None:
    rng, covered = np.random.default_rng(5), 0
    for _ in range(200):
        bits = 50 * 0.02 + rng.normal(0, 2, 100)
        one = rank({"a": Gain(bits, 0.0)}, placebo=PLACEBO, bytes_by_document=BYTES, seed=1)[0]
        covered += one.low <= 0.02 <= one.high
    assert 180 <= covered <= 198


def test_no_candidate_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected at least one candidate, got none"):
        rank({}, placebo=PLACEBO, bytes_by_document=BYTES)
