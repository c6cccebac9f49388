"""The math corpus: word problems with worked solutions, in three layouts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from midstudy.data.builtin.draw import Draw
from midstudy.data.builtin.problems import problem, templates
from midstudy.data.splits import split_by_hash

PACKAGES: tuple[str, ...] = ()
NUM_DOCUMENTS = 20_000
TEMPLATES = templates("math_templates.toml", "corpus")

_LAYOUTS = ("{q}\n{a}", "{q}\n{a}", "Question: {q}\nAnswer: {a}", "Problem: {q}\n\nSolution: {a}")


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield split and document, cycling through the templates, without duplicates."""
    seen: set[str] = set()
    for number in range(NUM_DOCUMENTS):
        template = TEMPLATES[number % len(TEMPLATES)]
        draw = Draw(f"math {number}")
        made = problem(template, draw, "corpus")
        text = draw.choice(_LAYOUTS).format(q=made.question, a=made.answer)
        if text not in seen:
            seen.add(text)
            yield split_by_hash(text, dev=0.02, test=0.02), {"text": text, "source": f"template {template.name}"}
