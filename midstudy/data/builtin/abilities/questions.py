"""Questions with four choices, of which one is right, from the fact tables and from `science_qa`.

The three others are values that other subjects of the same relation have, or gaps of the same field. A fact is asked once,
and is in one split; its value may be read in other text, but no other text asks as here (`questions.toml`). Questions of
`science_qa` keep their splits.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from midstudy.data.builtin import facts, science_qa
from midstudy.data.builtin.draw import Draw
from midstudy.data.builtin.elements import elements
from midstudy.data.builtin.packages import open_wheel
from midstudy.data.builtin.prepare import TEXT
from midstudy.data.splits import split_by_hash

PACKAGES = tuple(sorted({*facts.PACKAGES, *science_qa.PACKAGES}))
NUM_CHOICES = 4
MOST_CHARS = 400
"""Of a question: what a context of 256 tokens can hold with four choices."""

_RELATIONS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("ascii"))


@dataclass(frozen=True)
class Question:
    """`choices` are in the order in which they are shown; `right` is the place of the right one. `subject` is its topic."""

    asked: str
    choices: tuple[str, ...]
    right: int
    subject: str


@dataclass(frozen=True)
class _Asked:
    """A question, its answer, and which answers are alternatives to it: those of the same `kind`."""

    split: str
    asked: str
    answer: str
    subject: str
    kind: str


def questions() -> Iterator[tuple[str, Question]]:
    """Yield split and question, without those that are asked of several subjects or have no three other answers."""
    found = [one for one in (*_of_facts(), *_of_science()) if len(one.asked) <= MOST_CHARS]
    times = Counter(one.asked for one in found)
    asked = [one for one in found if times[one.asked] == 1]
    answers: dict[str, set[str]] = {}
    for one in asked:
        answers.setdefault(one.kind, set()).add(one.answer)
    ordered = {kind: sorted(of_kind) for kind, of_kind in answers.items()}
    for one in asked:
        if len(ordered[one.kind]) >= NUM_CHOICES:
            draw = Draw(f"choices {one.asked}")
            choices = _others(draw, one.answer, ordered[one.kind])
            right = draw.below(NUM_CHOICES)
            choices.insert(right, one.answer)
            yield one.split, Question(one.asked, tuple(choices), right, one.subject)


def _others(draw: Draw, answer: str, answers: Sequence[str]) -> list[str]:
    others: list[str] = []
    while len(others) < NUM_CHOICES - 1:
        other = draw.choice(answers)
        if other != answer and other not in others:
            others.append(other)
    return others


def _of_facts() -> Iterator[_Asked]:
    for fact in facts.facts():
        relation = _RELATIONS.get(fact.relation)
        if relation is None:
            continue
        split = split_by_hash(f"choices {fact.relation} {fact.subject}", dev=0.04, test=0.06)
        is_backwards = fact.one_to_one and "backwards" in relation and Draw(f"way {fact.relation} {fact.subject}").chance(50)
        way, answer = ("backwards", fact.subject) if is_backwards else ("forwards", fact.value)
        asked = relation[way].format(x=fact.subject, y=fact.value)
        yield _Asked(split, asked, answer, relation["topic"], f"{fact.relation} {way}")


def _of_science() -> Iterator[_Asked]:
    with open_wheel("mendeleev") as archive:
        by_name = {element.name: element for element in elements(archive)}
    for split in ("train", "dev", "test"):
        for row in TEXT.read("science_qa", split):
            package, _, _ = row["source"].partition(" ")
            answer = row["answer"]
            if package != "mendeleev":
                field = science_qa.FIELDS[_package_of(package)]
                yield _Asked(split, row["question"], answer, field, f"gap {field}")
                continue
            element = by_name[row["source"].split(" ")[1]]
            short = {element.name: "element", element.series.lower(): "family", str(element.discovery_year): "year"}
            if answer in short:
                yield _Asked(split, row["question"], answer, "chemistry", f"element {short[answer]}")


def _package_of(module: str) -> str:
    """Return the package that a module's file is of, such as scikit-rf of `skrf/network.py`."""
    top = module.partition("/")[0]
    return {"skrf": "scikit-rf"}.get(top, top)
