"""Overlap with test items: exact texts and 13-word runs; the anchors do not miss any."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from midstudy.data.overlap import NGRAM, TestItems, ngrams, words

ALPHABET = " ".join("abcdefghijklmnopqrstuvwxyz").split()


def overlapping(test_texts: list[str], training_texts: list[str]) -> list[int]:
    """Return the positions of the training texts that share text with a test item."""
    items = TestItems(test_texts)
    return [position for position, text in enumerate(training_texts) if items.overlaps(text)]


def test_words_are_lower_cased_letters_and_digits() -> None:
    assert words("Don't pay $1,000 for Foo_bar(x2)!") == ["don", "t", "pay", "1", "000", "for", "foo", "bar", "x2"]


@given(st.text(alphabet=st.characters(max_codepoint=127)) | st.text())
def test_words_of_ascii_and_of_other_text_follow_one_rule(text: str) -> None:
    assert words(text) == re.findall(r"[^\W_]+", text.lower())


def test_a_text_of_thirteen_words_has_one_ngram_and_a_shorter_one_none() -> None:
    assert list(ngrams(" ".join(ALPHABET[:NGRAM]))) == [" ".join(ALPHABET[:NGRAM])]
    assert list(ngrams(" ".join(ALPHABET[: NGRAM - 1]))) == []


def test_thirteen_shared_words_overlap_and_twelve_do_not() -> None:
    item = " ".join(ALPHABET)
    assert overlapping([item], ["x0 " + " ".join(ALPHABET[5:18]) + " x1", "x0 " + " ".join(ALPHABET[5:17]) + " x1"]) == [0]


def test_case_and_punctuation_do_not_hide_an_overlap() -> None:
    assert overlapping([" ".join(ALPHABET)], ["; ".join(ALPHABET[:13]).upper()]) == [0]


def test_a_short_item_overlaps_its_equal_only() -> None:
    assert overlapping(["What is it? A cat."], ["what is it a cat", "So what is it? A cat."]) == [0]


@settings(max_examples=300)
@given(st.data())
def test_anchors_find_what_comparing_every_run_finds(data: st.DataObject) -> None:
    few = st.lists(st.sampled_from("abc"), max_size=60).map(" ".join)
    items: list[str] = data.draw(st.lists(few, max_size=4))
    text = data.draw(few)
    spliced: bool = data.draw(st.booleans())
    if items and spliced:
        # Random texts rarely share 13 words, so insert a piece of an item.
        source = data.draw(st.sampled_from(items)).split()
        start = data.draw(st.integers(0, max(0, len(source) - 1)))
        text = f"{text} {' '.join(source[start : start + data.draw(st.integers(10, 16))])} {data.draw(few)}"
    grams = {gram for item in items for gram in ngrams(item)}
    naive = bool(grams & set(ngrams(text))) or words(text) in [words(item) for item in items]
    assert TestItems(items).overlaps(text) == naive
