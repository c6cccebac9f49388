"""Duplicates: exact ones, and near ones planted at known similarities, beside brute force over all pairs."""

from __future__ import annotations

import random
from fractions import Fraction

from midstudy.prepare.document import Document
from midstudy.prepare.duplicates import exact_duplicates, near_duplicates
from midstudy.prepare.words import words
from midstudy.recipe.preparation import NearDuplicates

STEP = NearDuplicates(ngram=3, jaccard=Fraction("0.7"))


def grams(text: str, n: int = 3) -> set[tuple[str, ...]]:
    sequence = words(text)
    return {tuple(sequence[start : start + n]) for start in range(len(sequence) - n + 1)}


def jaccard(one: str, other: str) -> float:
    first, second = grams(one), grams(other)
    return len(first & second) / len(first | second)


def text_of(rng: random.Random, size: int = 120) -> str:
    return " ".join(f"w{rng.randrange(5_000)}" for _ in range(size))


def changed(rng: random.Random, text: str, number: int) -> str:
    """Return the text with some words replaced."""
    sequence = text.split()
    for place in rng.sample(range(len(sequence)), number):
        sequence[place] = f"new{rng.randrange(5_000)}"
    return " ".join(sequence)


def test_the_second_of_two_texts_that_differ_in_white_space_is_a_duplicate() -> None:
    why_not = exact_duplicates(["held  out\n"])
    texts = ["a b", "A b", "a\n b ", "held out", "a c"]
    assert [why_not(Document(text)) for text in texts] == [None, None, "repeated", "in dev or test", None]


def test_planted_near_duplicates_are_found_and_what_is_less_alike_is_kept() -> None:
    """500 copies with 0 to 30 of 120 words replaced; of pairs well above the threshold 98 % go, well below none."""
    rng = random.Random(0)
    originals = [text_of(rng) for _ in range(500)]
    copies = [changed(rng, text, rng.randrange(31)) for text in originals]
    why_not = near_duplicates(STEP, [])
    assert not any(why_not(Document(text)) for text in originals)
    gone = [why_not(Document(text)) == "nearly repeated" for text in copies]
    alike = [jaccard(*pair) for pair in zip(originals, copies, strict=True)]
    high = [is_gone for is_gone, similarity in zip(gone, alike, strict=True) if similarity >= 0.82]
    low = [is_gone for is_gone, similarity in zip(gone, alike, strict=True) if similarity <= 0.55]
    assert min(len(high), len(low)) > 60
    assert sum(high) >= 0.98 * len(high)
    assert not any(low)


def test_a_near_copy_of_a_held_out_document_goes_and_says_so() -> None:
    rng = random.Random(1)
    held_out, other = text_of(rng), text_of(rng)
    why_not = near_duplicates(STEP, [held_out])
    texts = [changed(rng, held_out, 2), other, changed(rng, other, 2)]
    assert [why_not(Document(text)) for text in texts] == ["nearly in dev or test", None, "nearly repeated"]


def test_texts_shorter_than_an_ngram_are_alike_if_their_words_are_equal() -> None:
    why_not = near_duplicates(STEP, [])
    assert [why_not(Document(text)) for text in ("Two words.", "two words", "two others", "")] == [
        None,
        "nearly repeated",
        None,
        None,
    ]


def test_han_characters_are_words() -> None:
    assert words("法律 Art. 12条") == ["法", "律", "art", "12", "条"]
    why_not = near_duplicates(STEP, [])
    text = "中华人民共和国公民在法律面前一律平等任何公民享有宪法和法律规定的权利"
    assert why_not(Document(text)) is None
    assert why_not(Document(text + "。")) == "nearly repeated"
