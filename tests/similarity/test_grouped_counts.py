"""Counts by group of documents: sums of batches, independence of order, samples without replacement."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstudy.similarity.grouped_counts import NUM_GROUPS, Counting, GroupedCounts, group_of, merged
from midstudy.similarity.units import KEY_BITS, Grams

TEXTS = st.lists(st.text(alphabet="abc ", min_size=1, max_size=12), min_size=1, max_size=20)


def counted(texts: list[str], *, batch: int = 3) -> GroupedCounts:
    counting = Counting()
    for start in range(0, len(texts), batch):
        part = texts[start : start + batch]
        counting.add(*Grams("bytes", 1).keys(part), [group_of(text) for text in part])
    return counting.counts()


@given(texts=TEXTS, batch=st.integers(1, 7))
def test_counts_are_those_of_a_counter(texts: list[str], batch: int) -> None:
    expected = Counter((group_of(text), byte) for text in texts for byte in text.encode())
    found = counted(texts, batch=batch)
    assert (
        dict(zip(zip(found.groups.tolist(), found.keys.tolist(), strict=True), found.counts.tolist(), strict=True))
        == expected
    )
    assert (np.diff(found.codes.astype(object)) > 0).all()


@given(texts=TEXTS, data=st.data())
def test_the_order_of_documents_changes_nothing(texts: list[str], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(texts))
    assert counted(shuffled, batch=2).digest == counted(texts).digest


def test_a_group_is_a_fair_hash_of_the_text_alone() -> None:
    assert group_of("a") == group_of("a")
    sizes = np.bincount([group_of(f"document {number}") for number in range(64_000)], minlength=NUM_GROUPS)
    assert sizes.size == NUM_GROUPS
    assert (np.abs(sizes - 1_000) < 160).all()  # five standard deviations


def test_sums_and_parts() -> None:
    code = (np.uint64(5) << np.uint64(KEY_BITS)) | np.uint64(9)
    counts = GroupedCounts(np.array([7, code], np.uint64), np.array([2, 3]))
    assert merged([counts, counts]).counts.tolist() == [4, 6]
    assert merged([]).num_units == 0
    assert counts.units_by_group()[[0, 5]].tolist() == [2, 3]
    assert counts.in_groups(np.arange(NUM_GROUPS) == 5).keys.tolist() == [9]
    assert counts.matrix(np.array([7, 9], np.uint64)).toarray()[[0, 5]].tolist() == [[2, 0], [0, 3]]


def test_a_sample_has_its_size_and_the_expected_counts() -> None:
    counts = GroupedCounts(np.arange(4, dtype=np.uint64), np.array([1_000, 300, 50, 1]))
    rng = np.random.default_rng(0)
    samples = [counts.rarefied(270, rng) for _ in range(400)]
    assert {sample.num_units for sample in samples} == {270}
    means = np.zeros(4)
    for sample in samples:
        means[sample.keys.astype(int)] += sample.counts / 400
    # Hypergeometric: mean n K/N = 200 with standard deviation 6.4, so 0.32 for the mean of 400.
    np.testing.assert_allclose(means[:3], np.array([1_000, 300, 50]) * 270 / 1_351, atol=1.7)
    assert counts.rarefied(1_351, rng) is counts


def test_a_sample_larger_than_the_corpus_is_rejected() -> None:
    with pytest.raises(ValueError, match="expected a sample of at most 2 units, got 3"):
        GroupedCounts(np.array([1], np.uint64), np.array([2])).rarefied(3, np.random.default_rng(0))
