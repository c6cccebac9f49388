"""Hashed words: every unit is counted once, and the importance of a document follows its words."""

from __future__ import annotations

import numpy as np
import pytest

from midstudy.similarity.hashed_words import NUM_BINS, bin_counts, log_importance, mean_importance


def test_every_word_and_pair_is_counted_once() -> None:
    counts = bin_counts(["One two three", "four"])
    assert counts.shape == (NUM_BINS,)
    assert counts.sum() == 4 + 2
    assert bin_counts(["one TWO three"]).tolist() == bin_counts(["One two Three"]).tolist()


def test_the_importance_of_a_text_is_the_mean_log_ratio_of_its_units() -> None:
    target, general = bin_counts(["red green"] * 5), bin_counts(["blue white"] * 9)
    ratio = log_importance(target, general)
    found = mean_importance(["red", "blue", "red green", ""], ratio)
    red = np.log((6 / (15 + NUM_BINS)) / (1 / (27 + NUM_BINS)))
    blue = np.log((1 / (15 + NUM_BINS)) / (10 / (27 + NUM_BINS)))
    assert found[:3] == pytest.approx([red, blue, red])
    assert found[3] == -np.inf
