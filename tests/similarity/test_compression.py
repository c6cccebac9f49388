"""Normalised compression distance: the formula on zlib's own sizes, its order of related and unrelated texts."""

from __future__ import annotations

import random
import zlib

import pytest

from midstudy.similarity.compression import Compressed, compression_distance, compression_similarity

WORDS = ["stone", "river", "cloud", "maple", "ember", "north", "quiet", "glass"]


def prose(seed: int, words: list[str]) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=40)) for _ in range(20)]


def test_is_the_formula_on_the_sizes_of_zlib() -> None:
    a, b = ["one text", "more of it"], ["another text"]
    x, y, xy = (
        len(zlib.compress(text))
        for text in (b"one text\nmore of it", b"another text", b"one text\nmore of it\nanother text")
    )
    assert compression_distance(Compressed(a), Compressed(b)) == (xy - min(x, y)) / max(x, y)


def test_is_symmetric_and_bounded_and_close_texts_are_closer() -> None:
    code = ["def", "return", "self", "import", "lambda", "yield", "class", "while"]
    first, near, far = (Compressed(prose(seed, words)) for seed, words in ((0, WORDS), (1, WORDS), (2, code)))
    assert compression_similarity(first, near) == compression_similarity(near, first)
    assert (
        0
        <= compression_similarity(first, far)
        < compression_similarity(first, near)
        < compression_similarity(first, first)
        <= 1
    )


def test_a_sample_without_documents_is_rejected() -> None:
    with pytest.raises(ValueError, match="expected documents, got none"):
        Compressed([])
