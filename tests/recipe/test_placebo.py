"""The placebo and the rest: two parts of one corpus, disjoint and complete, in recipes that older ones do not notice."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from builders.small_recipes import CODE, GENERAL, PYCODE, arm, trunk, wrong
from hypothesis import given
from hypothesis import strategies as st

from midstudy.recipe import Corpus, Mixture, RecipeError, Study, TrainPart, placebo
from midstudy.recipe.canonical import canonical, expanded, identify
from midstudy.recipe.decode import decode
from midstudy.recipe.explain import differences

FIFTH = TrainPart(start=Fraction(4, 5), stop=Fraction(1))


def test_a_corpus_without_a_part_keeps_its_id():
    form = '{"is":"Corpus","source":{"config":"","is":"Source","kind":"wheels","part":"general","revision":"r1"}}'
    assert identify(GENERAL) == hashlib.sha256(form.encode()).hexdigest()[:16]


def test_the_rest_is_the_corpus_without_the_placebo():
    rest, mixed_in = placebo(GENERAL, share=0.2, name="placebo")
    assert (rest.name, rest.train_part) == ("general", TrainPart(start=Fraction(0), stop=Fraction(4, 5)))
    assert (mixed_in.name, mixed_in.train_part) == ("placebo", FIFTH)
    for part in (rest, mixed_in):
        assert replace(part, name="general", train_part=None) == GENERAL
    assert placebo(GENERAL) == (rest, mixed_in)
    assert placebo(replace(GENERAL, max_bytes=1_000))[1].max_bytes == 1_000  # limits the text that is split


def test_the_canonical_form_of_a_part_by_hand():
    form = (
        '{"is":"Corpus","source":{"config":"","is":"Source","kind":"wheels","part":"general","revision":"r1"},'
        '"train_part":{"is":"TrainPart","start":"4/5","stop":"1"}}'
    )
    assert json.dumps(canonical(placebo(GENERAL)[1]), separators=(",", ":"), sort_keys=True) == form
    assert identify(placebo(GENERAL)[1]) == hashlib.sha256(form.encode()).hexdigest()[:16]


@given(st.lists(st.fractions(min_value=Fraction(1, 100), max_value=Fraction(99, 100)), min_size=1, max_size=6))
def test_parts_of_parts_partition_the_hashes(shares: list[Fraction]):
    """Split again and again: the last rest and all placebos cover [0, 1) without overlap, each with its share."""
    rest, left, parts = GENERAL, Fraction(1), []
    for number, share in enumerate(shares):
        rest, mixed_in = placebo(rest, share, name=f"placebo {number}")
        assert mixed_in.train_part is not None
        assert mixed_in.train_part.share == share * left
        left *= 1 - share
        parts.append(mixed_in.train_part)
    assert rest.train_part is not None
    ranges = [rest.train_part, *reversed(parts)]
    assert [part.start for part in ranges] == [0, *(part.stop for part in ranges[:-1])]
    assert ranges[-1].stop == 1


def test_a_part_is_read_back_exactly():
    _, mixed_in = placebo(GENERAL, "1/3")
    read = decode(json.loads(json.dumps(expanded(mixed_in))))
    assert (read, identify(read)) == (mixed_in, identify(mixed_in))


def test_the_source_of_a_part_says_which_part_it_is():
    rest, mixed_in = placebo(GENERAL)
    assert GENERAL.origin == "wheels:general"
    assert rest.origin == "wheels:general, 80 % of train by hash, [0, 4/5)"
    assert mixed_in.origin == "wheels:general, 20 % of train by hash, [4/5, 1)"
    assert PYCODE.origin == "wheels:pycode"


def test_explain_names_the_part():
    rest, mixed_in = placebo(GENERAL)
    differing = differences(canonical(rest), canonical(mixed_in))
    assert {difference.path for difference in differing} == {"train_part.start", "train_part.stop"}


def test_the_placebo_is_a_specialist_and_the_rest_a_base():
    rest, mixed_in = placebo(GENERAL)
    mixture = Mixture.blend(rest, {mixed_in: 0.2, CODE: 0.1})
    assert mixture.base_corpus == rest
    assert {corpus.name for corpus in mixture.specialist_corpora} == {"placebo", "code"}


def test_a_study_with_the_rest_and_the_whole_corpus_under_one_name_is_rejected():
    rest, mixed_in = placebo(GENERAL)
    run = trunk().branch(start_step=6, data=Mixture.blend(rest, {mixed_in: 0.2}), name="placebo")
    with pytest.raises(RecipeError, match=r"study\.data\.general: expected one data set of this name, got two"):
        Study(name="x", question="?", arms=[arm(run)])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: placebo(GENERAL, 0.0), r"placebo\.share: expected a share above 0 and below 1, got 0\.0"),
        (lambda: placebo(GENERAL, 1), r"placebo\.share: expected a share above 0 and below 1, got 1"),
        (lambda: placebo(GENERAL, 1.2), r"placebo\.share: expected a share in \[0, 1\]"),
        (lambda: placebo(wrong(PYCODE)), r"placebo\.corpus: expected a Corpus, got a value of type Task"),
        (lambda: TrainPart(start=Fraction(0), stop=Fraction(1)), "less than the whole, got start 0, stop 1"),
        (lambda: TrainPart(start=Fraction(1, 2), stop=Fraction(1, 2)), "got start 1/2, stop 1/2"),
        (lambda: TrainPart(start=wrong(0.8), stop=Fraction(1)), "train_part: expected fractions"),
        (
            lambda: Corpus(name="x", source=GENERAL.source, train_part=wrong((4, 5))),
            r"corpora\.x\.train_part: expected a TrainPart or None, got a value of type tuple",
        ),
    ],
)
def test_a_part_that_is_none_or_all_of_a_corpus_is_rejected(build: Any, message: str):
    with pytest.raises(RecipeError, match=message):
        build()
