"""Byte experts against Witten and Bell's formula with dictionaries; the jackknife against counting without a group."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstudy.similarity.byte_expert import NUM_GROUPS, ByteCounts, ByteExpert, windows_of

TEXTS = st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=8)
FEW_BYTES = st.lists(st.text("ab\x00", min_size=1, max_size=9).map(str.encode), min_size=1, max_size=8)


def by_dictionaries(documents: list[bytes], window: bytes) -> float:
    """Interpolate from the lowest order; every position of a document and its end is counted once in each order."""
    result = 1 / 256
    padded = [b"\x00\x00\x00" + one + b"\x00\x00\x00" for one in documents]
    for order in range(1, 5):
        grams = Counter(one[at : at + order] for one in padded for at in range(len(one) - 3))
        context, gram = window[4 - order : 3], window[4 - order :]
        followers = {key: count for key, count in grams.items() if key[:-1] == context}
        total, kinds = sum(followers.values()), len(followers)
        if total:
            result = (grams[gram] + kinds * result) / (total + kinds)
    return result


def counted(documents: list[bytes]) -> ByteCounts:
    return ByteCounts.of(documents, [place % NUM_GROUPS for place in range(len(documents))])


def as_bytes(windows: np.ndarray) -> list[bytes]:
    return [int(one).to_bytes(4, "big") for one in windows]


@given(FEW_BYTES, FEW_BYTES)
def test_probabilities_are_those_of_the_formula(train: list[bytes], dev: list[bytes]) -> None:
    windows, _ = windows_of(dev, with_end=False)
    found = ByteExpert(counted(train), windows).probabilities()
    assert found == pytest.approx([by_dictionaries(train, window) for window in as_bytes(windows)], rel=1e-12)


@given(TEXTS, st.binary(min_size=3, max_size=3))
def test_the_probabilities_of_all_bytes_after_a_context_sum_to_1(train: list[bytes], context: bytes) -> None:
    windows = np.array([int.from_bytes(context + bytes([last]), "big") for last in range(256)], np.uint32)
    found = ByteExpert(counted(train), windows).probabilities()
    assert (found > 0).all()
    assert found.sum() == pytest.approx(1, abs=1e-12)


@given(FEW_BYTES, st.integers(0, NUM_GROUPS - 1))
def test_leaving_out_a_group_equals_counting_without_its_documents(train: list[bytes], group: int) -> None:
    windows, _ = windows_of([b"abba", b"baab"], with_end=False)
    kept = [one for place, one in enumerate(train) if place % NUM_GROUPS != group]
    found = ByteExpert(counted(train), windows).probabilities(without_group=group)
    expected = ByteExpert(counted(kept), windows).probabilities() if kept else np.full(windows.size, 1 / 256)
    assert found == pytest.approx(expected, rel=1e-12)


def test_a_window_never_spans_two_documents() -> None:
    windows, lengths = windows_of([b"ab", b"c"], with_end=False)
    assert as_bytes(windows) == [b"\x00\x00\x00a", b"\x00\x00ab", b"\x00\x00\x00c"]
    assert lengths.tolist() == [2, 1]


def test_counts_do_not_depend_on_the_blocks_they_are_made_in(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [b"some text", b"more", b"text of some length", b"end"]
    whole = counted(documents)
    monkeypatch.setattr("midstudy.similarity.byte_expert._BLOCK_BYTES", 5)
    parts = counted(documents)
    assert parts.keys.tolist() == whole.keys.tolist()
    assert parts.counts.tolist() == whole.counts.tolist()


def test_no_text_and_a_wrong_group_are_errors() -> None:
    with pytest.raises(ValueError, match="expected documents with text, got none"):
        ByteCounts.of([], [])
    with pytest.raises(ValueError, match="expected groups from 0 to 7, got 8 to 8"):
        ByteCounts.of([b"a"], [8])
