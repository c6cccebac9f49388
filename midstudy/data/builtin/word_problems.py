"""The word-problem task, after GSM8K: question → worked answer; the test split has its own templates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from midstudy.data.builtin.draw import Draw
from midstudy.data.builtin.problems import problem, templates
from midstudy.data.splits import split_by_hash

PACKAGES: tuple[str, ...] = ()
NUM_TRAIN, NUM_TEST = 5_200, 600
TRAIN = templates("word_problem_templates.toml", "train")
TEST = templates("word_problem_templates.toml", "test")


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield split and item."""
    return drawn(NUM_TRAIN, NUM_TEST)


def drawn(num_train: int, num_test: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield split and item of so many draws, cycling through the templates, without duplicate questions."""
    seen: set[str] = set()
    for pool, count, is_test in ((TRAIN, num_train, False), (TEST, num_test, True)):
        for number in range(count):
            template = pool[number % len(pool)]
            made = problem(template, Draw(f"word problems {is_test} {number}"), "task")
            if made.question not in seen:
                seen.add(made.question)
                split = "test" if is_test else split_by_hash(made.question, dev=0.05, test=0.0)
                row = {"question": made.question, "answer": made.answer, "source": f"template {made.template}"}
                yield split, row
