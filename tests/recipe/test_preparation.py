"""Recipes of prepared text: what their ids hold, what they refuse, and which first steps they share."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from midstudy.recipe import Corpus, RecipeError
from midstudy.recipe.canonical import canonical, expanded
from midstudy.recipe.data import Source, Task, sources_of
from midstudy.recipe.decode import decode
from midstudy.recipe.preparation import (
    Chunk,
    Decontaminate,
    ExactDuplicates,
    Heuristics,
    NearDuplicates,
    Prepared,
    Sample,
    Select,
    Splice,
    Step,
    shared_prefix,
)
from midstudy.recipe.stage import stage_id


def source(name: str) -> Source:
    return Source(kind="files", part="", revision=name)


WEB, CODE = (Corpus(name=name, source=source(name)) for name in ("web", "code"))
TASK = Task(name="task", source=source("task"))

EVERY: tuple[Step, ...] = (
    ExactDuplicates(),
    NearDuplicates(ngram=5, jaccard=Fraction("0.8")),
    Heuristics(rules=("gopher quality", "c4 pages")),
    Decontaminate(against=(TASK, CODE)),
    Select(field="topic", values=("law",)),
    Sample(share=Fraction("0.5")),
    Chunk(max_bytes=1_000),
    Splice(min_bytes=5_000),
)


def test_a_recipe_is_read_back_from_the_store_with_its_id() -> None:
    recipe = Prepared(of=(WEB, CODE), steps=EVERY)
    assert decode(expanded(recipe)) == recipe
    assert stage_id(decode(expanded(recipe))) == stage_id(recipe)


def test_an_id_depends_on_the_corpora_and_on_every_step_in_order_and_not_on_names() -> None:
    recipe = Prepared(of=(WEB,), steps=EVERY)
    named = Prepared(of=(replace(WEB, name="other"),), steps=EVERY)
    assert stage_id(named) == stage_id(recipe)
    others = [
        Prepared(of=(CODE,), steps=EVERY),
        Prepared(of=(WEB,), steps=EVERY[:-1]),
        Prepared(of=(WEB,), steps=(EVERY[1], EVERY[0], *EVERY[2:])),
        Prepared(of=(WEB,), steps=(*EVERY[:-1], Splice(min_bytes=5_001))),
        Prepared(of=(replace(WEB, max_bytes=10_000),), steps=EVERY),
    ]
    assert len({stage_id(one) for one in [recipe, *others]}) == 6


def test_a_corpus_of_prepared_text_names_the_sources_that_are_read() -> None:
    inner = Corpus(name="clean web", source=Prepared(of=(WEB,), steps=(ExactDuplicates(),)))
    outer = Corpus(name="all", source=Prepared(of=(inner, CODE), steps=()))
    assert isinstance(outer.source, Prepared)
    assert sources_of(outer.source) == (WEB.source, CODE.source)
    assert outer.source.needed == (inner, CODE)
    assert "is" in canonical(outer)["source"]
    assert str(inner.source) == "web prepared: exact duplicates"


def test_the_longest_run_of_first_steps_that_another_shares() -> None:
    dedup, rules, law, art = (
        EVERY[0],
        EVERY[2],
        Select(field="topic", values=("law",)),
        Select(field="topic", values=("art",)),
    )
    first = Prepared(of=(WEB,), steps=(dedup, rules, law))
    second = Prepared(of=(WEB,), steps=(dedup, rules, art))
    third = Prepared(of=(WEB,), steps=(dedup, art))
    elsewhere = Prepared(of=(CODE,), steps=(dedup, rules, art))
    assert shared_prefix(first, [first, second, third]) == Prepared(of=(WEB,), steps=(dedup, rules))
    assert shared_prefix(third, [first, second, third]) == Prepared(of=(WEB,), steps=(dedup,))
    assert shared_prefix(first, [first, elsewhere]) is None
    longer = Prepared(of=(WEB,), steps=(*first.steps, Chunk(max_bytes=100)))
    assert shared_prefix(longer, [first, longer]) == first
    assert shared_prefix(first, [first, longer]) is None, "the whole of it is begun by none"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Prepared(of=(WEB,), steps=()), "preparation: expected a corpus and a step, or several corpora"),
        (lambda: Prepared(of=(TASK,), steps=EVERY), "preparation.of: expected corpora alone"),  # type: ignore[arg-type]
        (lambda: Prepared(of=(WEB,), steps=("dedup",)), "preparation.steps: expected steps of"),  # type: ignore[arg-type]
        (
            lambda: Heuristics(rules=("gofer",)),
            "preparation.heuristics.rules: expected one of gopher quality, gopher repetition, c4 pages, got gofer",
        ),
        (lambda: Heuristics(rules=()), "preparation.heuristics.rules: expected different rules, one or more"),
        (lambda: NearDuplicates(ngram=5, jaccard=Fraction(0)), r"jaccard: expected a share in \(0, 1\]"),
        (lambda: NearDuplicates(ngram=0, jaccard=Fraction(1, 2)), "ngram: expected"),
        (lambda: Sample(share=Fraction(3, 2)), r"preparation.sample.share: expected a share in \[0, 1\]"),
        (lambda: Chunk(max_bytes=3), "preparation.chunk.max_bytes: expected at least 4"),
        (lambda: Select(field="", values=()), "preparation.select: expected a field and values"),
        (lambda: Decontaminate(against=()), "preparation.decontaminate.against: expected a task or a corpus"),
    ],
)
def test_what_cannot_be_prepared_is_refused(make: object, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make()  # type: ignore[operator]


def test_conversations_have_no_steps() -> None:
    chat = Corpus(name="chat", source=replace(source("chat"), fields=(("messages", "messages"),)))
    with pytest.raises(RecipeError, match="documents of text: steps do not read conversations, got chat"):
        Prepared(of=(chat,), steps=(ExactDuplicates(),))
