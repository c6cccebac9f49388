"""A sample by hash against sorting the whole stream: the same documents in any order of the stream, cut at its last one."""

from __future__ import annotations

import hashlib
import random

from hypothesis import given
from hypothesis import strategies as st

from midstudy.data.hash_sample import HashSample


def rank(document: str) -> bytes:
    return hashlib.blake2b(document.encode("utf-8"), digest_size=8, person=b"sample").digest()


def first_bytes(documents: list[str], max_bytes: int) -> list[str]:
    kept: list[str] = []
    left = max_bytes
    for document in sorted(documents, key=rank):
        if left > 0:
            kept.append(document.encode("utf-8")[:left].decode("utf-8", "ignore"))
            left -= len(document.encode("utf-8"))
    return kept


@given(st.lists(st.text(min_size=1, max_size=9), max_size=30), st.integers(1, 60), st.randoms(use_true_random=False))
def test_a_sample_of_bytes_is_the_beginning_of_the_stream_in_the_order_of_the_hash(
    documents: list[str], max_bytes: int, random: random.Random
) -> None:
    expected = first_bytes(documents, max_bytes)
    random.shuffle(documents)
    sample = HashSample(max_bytes=max_bytes)
    for document in documents:
        sample.add(document)
    assert list(sample.documents()) == expected


@given(st.lists(st.text(max_size=9), max_size=30), st.integers(1, 20))
def test_a_sample_of_documents_counts_copies_as_often_as_they_occur(documents: list[str], number: int) -> None:
    sample = HashSample(max_documents=number)
    for document in documents:
        sample.add(document)
    assert list(sample.documents()) == sorted(documents, key=rank)[:number]
