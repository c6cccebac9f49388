"""Tokenizers of several corpora: exact byte shares, and one id for one set of shares."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from fractions import Fraction
from itertools import permutations
from typing import Any

import pytest
from builders.small_recipes import CODE, GENERAL, MATH, PYCODE, TOKENIZER, phase, source_of, wrong
from hypothesis import given
from hypothesis import strategies as st

from midstudy.recipe import Arm, Corpus, Curriculum, Mixture, RecipeError, Start, Study, TokenCounts, Tokenizer, pythia
from midstudy.recipe.canonical import canonical, expanded, identify
from midstudy.recipe.data import ByteShare
from midstudy.recipe.decode import decode
from midstudy.recipe.explain import differences
from midstudy.recipe.versions import TOKENIZER as VERSION

SHARES = {GENERAL: 0.5, CODE: 0.25, MATH: 0.25}


def tokenizer_of(shares: Any = None, max_bytes: int = 100_000) -> Tokenizer:
    return Tokenizer.of(SHARES if shares is None else shares, vocab_size=512, max_bytes=max_bytes)


def bytes_by_name(tokenizer: Tokenizer) -> dict[str, int]:
    return {corpus.name: max_bytes for corpus, max_bytes in tokenizer.byte_limits.items()}


def test_a_tokenizer_of_one_corpus_keeps_its_id():
    form = (
        '{"corpus":{"is":"Corpus","source":{"config":"","is":"Source","kind":"wheels","part":"general","revision":"r1"}},'
        f'"is":"Tokenizer","max_bytes":100000,"version":{VERSION},"vocab_size":512}}'
    )
    assert identify(TOKENIZER) == hashlib.sha256(form.encode()).hexdigest()[:16]
    assert tokenizer_of({GENERAL: 1}) == TOKENIZER
    assert tokenizer_of({GENERAL: 1.0, CODE: 0}) == TOKENIZER


def test_the_canonical_form_of_several_corpora_by_hand():
    def corpus(part: str) -> dict[str, Any]:
        source = {"is": "Source", "kind": "wheels", "part": part, "revision": "r1", "config": ""}
        return {"is": "Corpus", "source": source}

    assert canonical(tokenizer_of({GENERAL: 0.7, MATH: "1/10", CODE: Fraction(1, 5)})) == {
        "is": "Tokenizer",
        "corpus": corpus("code"),
        "others": [
            {"is": "ByteShare", "corpus": corpus("general"), "share": "7/10"},
            {"is": "ByteShare", "corpus": corpus("math"), "share": "1/10"},
        ],
        "vocab_size": 512,
        "max_bytes": 100_000,
        "version": VERSION,
    }


def test_the_order_in_which_corpora_are_given_changes_nothing():
    made = [tokenizer_of(dict(order)) for order in permutations(SHARES.items())]
    assert len(made) == 6
    assert len({identify(tokenizer) for tokenizer in made}) == 1
    assert len({tuple(tokenizer.byte_limits.items()) for tokenizer in made}) == 1
    assert bytes_by_name(made[0]) == {"code": 25_000, "general": 50_000, "math": 25_000}


def test_names_and_places_of_corpora_change_no_id_but_shares_and_corpora_do():
    renamed = dataclasses.replace(CODE, name="zebra", source=dataclasses.replace(source_of(CODE), location="elsewhere"))
    same = tokenizer_of({renamed: 0.25, MATH: 0.25, GENERAL: 0.5})
    others = [tokenizer_of({GENERAL: 0.5, CODE: 0.3, MATH: 0.2}), tokenizer_of({GENERAL: 0.5, CODE: 0.5}), TOKENIZER]
    assert identify(same) == identify(tokenizer_of())
    assert len({identify(tokenizer) for tokenizer in (same, *others)}) == 4


@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=8), st.integers(10**8, 10**12))
def test_the_bytes_of_the_corpora_add_up_and_are_their_shares_to_a_byte(weights: list[int], max_bytes: int):
    corpora = [
        Corpus(name=f"corpus {number}", source=dataclasses.replace(source_of(GENERAL), part=f"part {number}"))
        for number in range(len(weights))
    ]
    shares = {corpus: Fraction(weight, sum(weights)) for corpus, weight in zip(corpora, weights, strict=True)}
    made = tokenizer_of(shares, max_bytes)
    assert sum(made.byte_limits.values()) == max_bytes
    assert {part.corpus: part.share for part in made.byte_shares} == shares
    for corpus, num_bytes in made.byte_limits.items():
        assert abs(num_bytes - shares[corpus] * max_bytes) < 1


def test_a_tokenizer_of_several_corpora_is_read_back_exactly():
    made = tokenizer_of({GENERAL: "1/3", CODE: "1/3", MATH: "1/3"})
    read = decode(json.loads(json.dumps(expanded(made))))
    assert (read, identify(read)) == (made, identify(made))
    assert made.byte_shares == tuple(ByteShare(corpus=c, share=Fraction(1, 3)) for c in (CODE, GENERAL, MATH))


def test_explain_names_a_share_that_differs():
    other = tokenizer_of({GENERAL: 0.5, CODE: 0.3, MATH: 0.2})
    (difference,) = differences(canonical(tokenizer_of()), canonical(other))
    assert (difference.path, difference.left, difference.right) == ("others[1].share", "1/4", "1/5")


LIMITED = dataclasses.replace(CODE, max_bytes=24_999)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tokenizer_of({GENERAL: 0.5, CODE: 0.25}), r"tokenizer\.shares: expected shares that add up .*, got 3/4"),
        (lambda: tokenizer_of({}), r"tokenizer\.shares: expected shares that add up to exactly 1, got 0"),
        (lambda: tokenizer_of({GENERAL: 1.5, CODE: -0.5}), r"tokenizer\.general: expected a share in \[0, 1\], got 1\.5"),
        (lambda: tokenizer_of({"general": 1}), r"tokenizer\.shares: expected a Corpus, not its name"),
        (lambda: tokenizer_of([GENERAL]), r"tokenizer\.shares: expected a mapping from each Corpus"),
        (lambda: tokenizer_of({GENERAL: 0.5, PYCODE: 0.5}), r"tokenizer\.shares: expected a Corpus, not its name"),
        (
            lambda: tokenizer_of({GENERAL: 0.5, dataclasses.replace(GENERAL, name="prose"): 0.5}),
            r"tokenizer\.others: expected each corpus once, each with its own name, got general, prose",
        ),
        (
            lambda: tokenizer_of({GENERAL: 0.5, dataclasses.replace(CODE, name="general"): 0.5}),
            r"tokenizer\.others: expected each corpus once, each with its own name",
        ),
        (
            lambda: tokenizer_of({GENERAL: 0.75, LIMITED: 0.25}),
            r"tokenizer\.code: expected a share of 1 to 24,999 bytes.*, got 25,000 bytes",
        ),
        (lambda: tokenizer_of({GENERAL: "99999/100000", CODE: "1/100000"}, 99), r"tokenizer\.code: .*got 0 bytes"),
        (
            lambda: dataclasses.replace(TOKENIZER, others=(ByteShare(corpus=CODE, share=Fraction(1, 2)),)),
            r"tokenizer\.others: expected corpora in the order .*got general, code\. Use Tokenizer\.of",
        ),
        (
            lambda: dataclasses.replace(TOKENIZER, others=(ByteShare(corpus=MATH, share=Fraction(1)),)),
            r"tokenizer\.general: expected shares above 0 that leave some to `corpus`, got 0",
        ),
        (lambda: ByteShare(corpus=MATH, share=wrong("half")), r"tokenizer\.math: expected a share in \[0, 1\], got half"),
    ],
)
def test_shares_that_no_text_can_have_are_rejected_by_name(build: Any, message: str):
    with pytest.raises(RecipeError, match=message):
        build()


def test_a_study_has_the_corpora_of_its_tokenizers():
    """No arm and no count reads code or math, only the tokenizer does."""
    counts = TokenCounts(data=GENERAL, tokenizer=tokenizer_of(), num_documents=10, tokens_per_document=32, seed=0)
    only_counts = Study(name="x", question="?", counts=(counts,))
    start = Start(model=pythia("nano", vocab_size=512, max_seq_len=64), tokenizer=tokenizer_of(), seed=0)
    trained = Arm(curriculum=Curriculum.of(start, phase(Mixture.only(GENERAL), 5)), measures={})
    only_arm = Study(name="x", question="?", arms=[trained], seeds=())
    for study in (only_counts, only_arm):
        assert {data.name for data in study.datasets()} == {"general", "code", "math"}
