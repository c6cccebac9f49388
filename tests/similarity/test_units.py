"""N-grams of bytes, words and characters against plain Python: the same counts, none across documents, keys of 58 bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstudy.similarity.units import KEY_BITS, Grams, orders_of

TEXTS = st.lists(st.text(max_size=30), max_size=6)
SMALL_ALPHABET = st.lists(st.text(alphabet="abÀ  \u00a0\n", max_size=30), max_size=6)


def byte_symbols(text: str) -> list[object]:
    return list(text.encode("utf-8"))


def word_symbols(text: str) -> list[object]:
    return list(text.lower().split())


def character_symbols(text: str) -> list[object]:
    return list(text.lower())


SYMBOLS = {"bytes": byte_symbols, "words": word_symbols, "chars": character_symbols}


def grams_of(text: str, symbols: Callable[[str], list[object]], order: int) -> list[tuple[object, ...]]:
    found = symbols(text)
    return [tuple(found[place : place + order]) for place in range(len(found) - order + 1)]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", list(SYMBOLS))
@given(texts=TEXTS | SMALL_ALPHABET)
def test_equal_ngrams_and_only_those_have_equal_keys(kind: str, order: int, texts: list[str]) -> None:
    expected = [grams_of(text, SYMBOLS[kind], order) for text in texts]
    keys, num_units = Grams(kind, order).keys(texts)
    assert num_units.tolist() == [len(grams) for grams in expected]
    flat = [gram for grams in expected for gram in grams]
    assert len(set(zip(flat, keys.tolist(), strict=True))) == len(set(flat)) == len(set(keys.tolist()))
    assert all(key < 2**KEY_BITS for key in keys.tolist())


@pytest.mark.parametrize("kind", list(SYMBOLS))
def test_a_key_does_not_depend_on_the_batch(kind: str) -> None:
    texts = ["Far from here", "", "the rain in Spain falls", "ß ẞ İ"]
    together = Grams(kind, 2).keys(texts)[0]
    alone = np.concatenate([Grams(kind, 2).keys([text])[0] for text in texts])
    assert together.tolist() == alone.tolist()


def test_keys_of_bytes_are_the_bytes() -> None:
    assert Grams("bytes", 3).keys(["abcd"])[0].tolist() == [0x616263, 0x626364]


def test_keys_are_the_same_on_every_machine() -> None:
    # Golden values: stored counts and digests in JSON depend on them. The word key was computed with Python integers.
    base, mask = 0x9E3779B97F4A7C15, 2**64 - 1
    values = np.random.default_rng(20).integers(2**64, size=256, dtype=np.uint64).tolist()

    def mixed(value: int) -> int:
        value = (value + base) & mask
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        return value ^ (value >> 31)

    polynomial = sum(values[byte] * pow(base, place, 2**64) for place, byte in enumerate(b"cat")) & mask
    assert Grams("words", 1).keys(["a Cat"])[0].tolist()[1] == mixed(mixed(polynomial)) >> 6


def test_a_hundred_thousand_different_words_have_different_keys() -> None:
    words = [f"{stem}{number}" for stem in ("w", "word", "аб") for number in range(33_334)]
    keys, _ = Grams("words", 1).keys([" ".join(words)])
    assert Counter(keys.tolist()).most_common(1)[0][1] == 1


def test_words_end_at_every_white_space_of_str_split_and_nowhere_else() -> None:
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    texts = ["".join(f"a{character}b " for character in characters[start : start + 999]) for start in range(0, 2**16, 999)]
    _, lengths = Grams("words", 1).keys(texts)
    assert lengths.tolist() == [len(text.lower().split()) for text in texts]


def test_keys_of_words_do_not_depend_on_where_a_long_batch_is_cut() -> None:
    texts = [f"number {place} of many documents" for place in range(30_000)]  # several blocks
    together, lengths = Grams("words", 2).keys(texts)
    assert lengths.tolist() == [4] * len(texts)
    for place in (0, 9_000, 17_321, 29_999):
        alone, _ = Grams("words", 2).keys([texts[place]])
        assert together[4 * place : 4 * place + 4].tolist() == alone.tolist()


def test_a_range_names_several_orders() -> None:
    assert orders_of("words:1-3") == (Grams("words", 1), Grams("words", 2), Grams("words", 3))
    assert orders_of("bytes:4") == (Grams("bytes", 4),)


@pytest.mark.parametrize(
    "text", ["bytes", "bytes:", "bytes:0", "bytes:8", "chars:40", "words:3-2", "lines:1", "words:1-2-3"]
)
def test_other_names_are_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        orders_of(text)
