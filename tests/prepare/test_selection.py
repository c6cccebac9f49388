"""Selection by field, by hash, and by what test items hold."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from midstudy.prepare.document import Document
from midstudy.prepare.selection import sampled, selected, without_overlap
from midstudy.recipe.preparation import Sample, Select


def test_a_field_selects_and_a_missing_field_is_an_error() -> None:
    why_not = selected(Select(field="topic", values=("law", "1")))
    assert [why_not(Document("x", {"topic": value})) for value in ("law", 1, "art")] == [None, None, "art"]
    with pytest.raises(ValueError, match="expected field 'topic' in every row, got source in the row of 'some text'"):
        why_not(Document("some text", {"source": "a"}))


def test_a_sample_has_its_share_and_is_the_same_whatever_stands_around_it() -> None:
    texts = [f"document {number}" for number in range(4_000)]
    kept = {text for text in texts if sampled(Sample(share=Fraction("0.3")))(Document(text)) is None}
    assert len(kept) == pytest.approx(1_200, abs=4 * (4_000 * 0.3 * 0.7) ** 0.5)
    again = {text for text in reversed(texts) if sampled(Sample(share=Fraction("0.3")))(Document(text, {"a": 1})) is None}
    assert kept == again
    wider = {text for text in texts if sampled(Sample(share=Fraction("0.6")))(Document(text)) is None}
    assert kept < wider, "a larger sample holds a smaller one"
    other = {text for text in texts if sampled(Sample(share=Fraction("0.3"), seed=1))(Document(text)) is None}
    assert 200 < len(kept & other) < 520, "another seed draws independently"


def test_two_hundred_planted_leaks_of_thirteen_words_go_and_twelve_words_stay() -> None:
    rng = random.Random(0)
    items = [" ".join(f"i{rng.randrange(3_000)}" for _ in range(30)) for _ in range(200)]
    why_not = without_overlap(items)

    def around(run: list[str]) -> str:
        before, after = ([f"o{rng.randrange(3_000)}" for _ in range(40)] for _ in range(2))
        return " ".join([*before, *run, *after])

    for item in items:
        sequence = item.split()
        start = rng.randrange(18)
        assert why_not(Document(around(sequence[start : start + 13]))) == "overlap with dev or test"
        assert why_not(Document(around(sequence[start : start + 12]))) is None
