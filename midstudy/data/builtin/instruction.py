"""The instruction corpus, after FLAN: many kinds of tasks on facts and sentences, each in several wordings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from midstudy.data.builtin import facts
from midstudy.data.builtin.draw import Draw
from midstudy.data.builtin.facts import FORMS, Fact
from midstudy.data.builtin.general import service_documentation
from midstudy.data.builtin.packages import open_wheel
from midstudy.data.builtin.prose import html_paragraphs, is_prose
from midstudy.data.splits import split_by_hash

PACKAGES = ("botocore", *facts.PACKAGES)
NUM_DOCUMENTS = 24_000
NUM_SENTENCES = 12_000
SENTENCE_CHARS = (50, 150)


@dataclass(frozen=True)
class _Material:
    facts: Sequence[Fact]
    values: dict[str, list[str]]
    sentences: Sequence[tuple[str, str]]
    services: Sequence[str]


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield split and row, cycling through the kinds of tasks, without duplicate inputs."""
    material = _material()
    seen: set[str] = set()
    for number in range(NUM_DOCUMENTS):
        kind = _KINDS[number % len(_KINDS)]
        inputs, targets = kind(Draw(f"instruction {number}"), material)
        if inputs not in seen:
            seen.add(inputs)
            row = {"inputs": inputs, "targets": targets, "task": kind.__name__.strip("_")}
            yield split_by_hash(inputs, dev=0.02, test=0.02), row


def _material() -> _Material:
    known = facts.facts()
    values: dict[str, list[str]] = {}
    for fact in known:
        values.setdefault(fact.relation, []).append(fact.value)
    sentences: dict[str, str] = {}
    with open_wheel("botocore") as archive:
        for service, texts in service_documentation(archive, long_form=True):
            for markup in texts:
                # Short paragraphs only: the long paragraphs of these services are the high-quality web corpus.
                for text in html_paragraphs(markup) if len(markup) < 2 * SENTENCE_CHARS[1] else ():
                    if SENTENCE_CHARS[0] <= len(text) <= SENTENCE_CHARS[1] and ". " not in text and is_prose(text):
                        sentences.setdefault(text, service)
            if len(sentences) >= NUM_SENTENCES:
                break
    distinct = {relation: sorted(set(with_repeats)) for relation, with_repeats in values.items()}
    pairs = tuple(sentences.items())
    return _Material(known, distinct, pairs, tuple(sorted({service for _, service in pairs})))


def _fact(draw: Draw, material: _Material, *, options: int = 1) -> Fact:
    while True:
        fact = draw.choice(material.facts)
        if len(material.values[fact.relation]) >= options:
            return fact


def _question(draw: Draw, fact: Fact) -> str:
    return draw.choice(FORMS[fact.relation]).format(x=fact.subject)


def _others(draw: Draw, fact: Fact, material: _Material, count: int) -> list[str]:
    others: list[str] = []
    while len(others) < count:
        value = draw.choice(material.values[fact.relation])
        if value != fact.value and value not in others:
            others.append(value)
    return others


def _sentence(draw: Draw, material: _Material) -> str:
    return draw.choice(material.sentences)[0]


def _words(sentence: str) -> list[str]:
    return sentence.rstrip(".!?").split(" ")


def _closed_book(draw: Draw, material: _Material) -> tuple[str, str]:
    fact = _fact(draw, material)
    lead = draw.choice(("Question: {q}\nAnswer:", "{q}", "Please answer: {q}", "Q: {q}\nA:", "{q} Keep it short."))
    return lead.format(q=_question(draw, fact)), fact.value


def _multiple_choice(draw: Draw, material: _Material) -> tuple[str, str]:
    fact = _fact(draw, material, options=5)
    options = draw.shuffled([fact.value, *_others(draw, fact, material, 3)])
    lead = draw.choice(("{q}\nOptions:\n{o}", "Choose the right answer. {q}\n{o}", "{q}\nPick one:\n{o}\nAnswer:"))
    mark = draw.choice(("- {}", "* {}", "{}"))
    return lead.format(q=_question(draw, fact), o="\n".join(mark.format(option) for option in options)), fact.value


def _true_or_false(draw: Draw, material: _Material) -> tuple[str, str]:
    fact = _fact(draw, material, options=3)
    is_true = draw.chance(50)
    shown = fact.value if is_true else _others(draw, fact, material, 1)[0]
    lead, yes, no = draw.choice((
        ('Somebody asked "{q}" and was told "{v}". Is that right?', "yes", "no"),
        ("Question: {q}\nProposed answer: {v}\nTrue or false?", "true", "false"),
        ('Check this answer. {q} "{v}"', "correct", "wrong"),
    ))  # fmt: skip
    return lead.format(q=_question(draw, fact), v=shown), yes if is_true else no


def _odd_one_out(draw: Draw, material: _Material) -> tuple[str, str]:
    fact, stranger = _fact(draw, material, options=5), _fact(draw, material)
    while stranger.relation == fact.relation or stranger.value in material.values[fact.relation]:
        stranger = _fact(draw, material)
    options = draw.shuffled([fact.value, *_others(draw, fact, material, 2), stranger.value])
    lead = draw.choice(
        ("Which one does not belong: {o}?", "Find the odd one out. {o}", "One of these is different: {o}. Which?")
    )
    return lead.format(o="; ".join(options)), stranger.value


def _same_question(draw: Draw, material: _Material) -> tuple[str, str]:
    fact = _fact(draw, material)
    first, second = draw.sample(FORMS[fact.relation], 2)
    lead = draw.choice(("Ask this in other words: {q}", "Paraphrase the question.\n{q}", "Reword: {q}"))
    return lead.format(q=first.format(x=fact.subject)), second.format(x=fact.subject)


def _which_question(draw: Draw, material: _Material) -> tuple[str, str]:
    fact = _fact(draw, material)
    lead = draw.choice(
        ("The answer is {v}. The question was about {x}. What was asked?", "Write a question about {x} whose answer is {v}.")
    )
    return lead.format(v=fact.value, x=fact.subject), FORMS[fact.relation][0].format(x=fact.subject)


def _sort(draw: Draw, material: _Material) -> tuple[str, str]:
    fact = _fact(draw, material, options=6)
    options = [fact.value, *_others(draw, fact, material, draw.between(2, 4))]
    lead = draw.choice(
        ("Sort alphabetically: {o}", "Put these in alphabetical order.\n{o}", "{o}\nArrange this list from A to Z.")
    )
    return lead.format(o=", ".join(draw.shuffled(options))), ", ".join(sorted(options, key=str.lower))


def _as_list(draw: Draw, material: _Material) -> tuple[str, str]:
    fact = _fact(draw, material, options=5)
    options = [fact.value, *_others(draw, fact, material, 2)]
    lead = draw.choice(("Write one per line: {o}", "Turn this into a list with dashes. {o}", "Make bullet points of: {o}"))
    return lead.format(o=" / ".join(options)), "\n".join(f"- {option}" for option in options)


def _reorder(draw: Draw, material: _Material) -> tuple[str, str]:
    while len(_words(sentence := _sentence(draw, material))) > 16:
        pass
    lead = draw.choice(
        ("Put the words in order: {w}", "Unscramble this sentence.\n{w}", "Make a sentence of these words: {w}")
    )
    return lead.format(w=" ".join(draw.shuffled(_words(sentence)))), sentence


def _complete(draw: Draw, material: _Material) -> tuple[str, str]:
    words = _sentence(draw, material).split(" ")
    cut = draw.between(len(words) // 3, 2 * len(words) // 3)
    lead = draw.choice(("Finish the sentence: {s} ...", "{s} ...\nHow does it go on?", "Complete this text.\n{s}"))
    return lead.format(s=" ".join(words[:cut])), " ".join(words[cut:])


def _fill_in(draw: Draw, material: _Material) -> tuple[str, str]:
    words = _sentence(draw, material).split(" ")
    places = [place for place, word in enumerate(words) if re.fullmatch(r"[a-z]{5,}", word)]
    place = draw.choice(places or [0])
    shown = " ".join([*words[:place], "____", *words[place + 1 :]])
    lead = draw.choice(("Fill in the blank: {s}", "{s}\nWhich word is missing?", "What goes in the gap? {s}"))
    return lead.format(s=shown), words[place]


def _about_which(draw: Draw, material: _Material) -> tuple[str, str]:
    sentence, service = draw.choice(material.sentences)
    options = [service]
    while len(options) < 4:
        other = draw.choice(material.services)
        if other not in options:
            options.append(other)
    lead = draw.choice(
        (
            "Which product does this describe: {o}?\n{s}",
            "{s}\nThis is about one of: {o}. Which?",
            "Classify the text as {o}.\n{s}",
        )
    )
    return lead.format(o=", ".join(draw.shuffled(options)), s=sentence), service


def _count(draw: Draw, material: _Material) -> tuple[str, str]:
    sentence = _sentence(draw, material)
    lead = draw.choice(("How many words are in this sentence? {s}", "Count the words.\n{s}"))
    return lead.format(s=sentence), str(len(_words(sentence)))


def _extract(draw: Draw, material: _Material) -> tuple[str, str]:
    sentence = _sentence(draw, material)
    words = _words(sentence)
    what, answer = draw.choice((
        ("the first word", words[0]),
        ("the last word", words[-1]),
        ("the longest word", max(words, key=len)),
        ("the first three words", " ".join(words[:3])),
        ("the words that begin with a capital letter", ", ".join(word for word in words if word[:1].isupper())),
    ))  # fmt: skip
    lead = draw.choice(("Give {x} of this sentence: {s}", "{s}\nWrite down {x}.", "Extract {x}.\n{s}"))
    return lead.format(x=what, s=sentence), answer


def _rewrite(draw: Draw, material: _Material) -> tuple[str, str]:
    sentence = _sentence(draw, material)
    words = _words(sentence)
    what, answer = draw.choice((
        ("in capital letters", sentence.upper()),
        ("in small letters", sentence.lower()),
        ("without its first word", " ".join(words[1:]) + "."),
        ("with the words in reverse order", " ".join(reversed(words))),
    ))  # fmt: skip
    lead = draw.choice(("Write this {x}: {s}", "{s}\nRewrite it {x}.", "Rewrite {x}.\n{s}"))
    return lead.format(x=what, s=sentence), answer


_KINDS: tuple[Callable[[Draw, _Material], tuple[str, str]], ...] = (
    _closed_book, _multiple_choice, _true_or_false, _odd_one_out, _same_question, _which_question, _sort, _as_list,
    _reorder, _complete, _fill_in, _about_which, _count, _extract, _rewrite,
)  # fmt: skip
