"""The knowledge corpus: short questions and answers about facts from tables in packages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from midstudy.data.builtin import facts
from midstudy.data.builtin.draw import Draw
from midstudy.data.builtin.facts import BACKWARDS, FORMS
from midstudy.data.splits import split_by_hash

PACKAGES = facts.PACKAGES

_LEADS = (
    "Answer the following question with a short answer.",
    "Reply with only the answer to the question.",
    "What is the answer to this trivia question?",
    "Give the fact that is asked for.",
    "Question from a quiz:",
)


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield split and question: every wording of every fact; all wordings of a fact are in one split."""
    for fact in facts.facts():
        draw = Draw(f"qa {fact.relation} {fact.subject}")
        asked = [(form.format(x=fact.subject), fact.value) for form in FORMS[fact.relation]]
        if fact.one_to_one:
            asked += [(form.format(y=fact.value), fact.subject) for form in BACKWARDS.get(fact.relation, ())]
        split = split_by_hash(f"{fact.relation} {fact.subject}", dev=0.02, test=0.02)
        for question, answer in asked:
            yield (
                split,
                {
                    "instruction": draw.choice(_LEADS),
                    "input": question,
                    "output": answer,
                    "category": fact.relation,
                },
            )
