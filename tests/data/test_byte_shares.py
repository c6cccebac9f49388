"""The training text of a tokenizer: several corpora, interleaved in exact byte shares."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import pytest
from builders.small_recipes import CODE, GENERAL, MATH
from hypothesis import given
from hypothesis import strategies as st

from midstudy.data.byte_shares import interleaved
from midstudy.data.limit import Limited, text_size
from midstudy.recipe import Corpus


def limited(text: Iterable[str], max_bytes: int) -> Limited[str]:
    return Limited(text, size_of=text_size, path="tokenizer.x", split="train", max_bytes=max_bytes)


def read(texts: dict[Corpus, Iterable[str]], max_bytes: dict[Corpus, int]) -> list[str]:
    return list(interleaved({c: limited(texts[c], max_bytes[c]) for c in texts}, max_bytes=max_bytes))


def test_the_interleaving_by_hand():
    """Half of general, a quarter each of code and math: a tie goes to the first, then to what is furthest behind."""
    texts: dict[Corpus, Iterable[str]] = {GENERAL: ["g" * 4] * 9, CODE: ["c" * 4] * 9, MATH: ["m" * 2] * 9}
    made = read(texts, {GENERAL: 16, CODE: 8, MATH: 8})
    assert [document[0] for document in made] == ["g", "c", "m", "g", "m", "g", "c", "m", "g", "m"]


LARGEST = 40


@given(st.integers(0, 10**6), st.lists(st.integers(400, 4_000), min_size=2, max_size=3))
def test_every_prefix_has_the_shares_and_the_whole_falls_short_by_less_than_a_document(seed: int, sizes: list[int]):
    rng = random.Random(seed)
    corpora = (GENERAL, CODE, MATH)[: len(sizes)]
    max_bytes = dict(zip(corpora, sizes, strict=True))
    texts = {corpus: [corpus.name[0] * rng.randint(1, LARGEST) for _ in range(5_000)] for corpus in corpora}
    num_bytes = dict.fromkeys(corpora, 0)
    for document in read(dict(texts), max_bytes):
        corpus = next(corpus for corpus in corpora if corpus.name[0] == document[0])
        assert document == texts[corpus].pop(0)  # from the head, in order
        num_bytes[corpus] += len(document)
        done = [num_bytes[c] / max_bytes[c] for c in corpora if num_bytes[c] <= max_bytes[c] - LARGEST]
        if len(done) == len(corpora):
            assert max(done) - min(done) <= LARGEST / min(sizes)
    for corpus in corpora:
        assert num_bytes[corpus] <= max_bytes[corpus] < num_bytes[corpus] + len(texts[corpus][0])


def test_bytes_are_counted_not_characters():
    assert read({GENERAL: ["ä"] * 9, CODE: ["c"] * 9}, {GENERAL: 4, CODE: 2}) == ["ä", "c", "ä", "c"]


def test_a_corpus_with_less_text_than_its_share_is_named_with_both_sizes():
    with pytest.raises(
        ValueError, match=r"tokenizer\.code: expected 1,001 bytes of train text.*got 1,000, all of wheels:code"
    ):
        read({GENERAL: ["g"] * 9_000, CODE: ["c" * 100] * 10}, {GENERAL: 5_000, CODE: 1_001})
    assert len(read({GENERAL: ["g"] * 9_000, CODE: ["c" * 100] * 10}, {GENERAL: 5_000, CODE: 1_000})) == 5_010


def test_text_is_read_as_it_is_used():
    num_read = 0

    def endless() -> Iterator[str]:
        nonlocal num_read
        while True:
            num_read += 1
            yield "g"

    documents = interleaved({GENERAL: limited(endless(), 10**9)}, max_bytes={GENERAL: 10**9})
    assert next(documents) == "g"
    assert num_read <= 2
