"""The first collection of built-in text: six corpora and four tasks, none of which may hold a test item of a task."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from midstudy.data.builtin.collection import Collection, Made
from midstudy.data.builtin.packages import LIST
from midstudy.data.overlap import TestItems
from midstudy.data.rows import as_example, as_text

PREPARATION = 1
"""Increase by hand, then run `python -m midstudy.data.builtin.freeze`, when the text made from the same packages changes."""

CORPORA = ("general", "code", "math", "instruction", "qa", "hqweb")
TASKS = ("pycode", "word_problems", "science_qa", "long_form")


def build(part: str) -> Made:
    """Return the rows of a part without those that overlap a test item: of a task its own, of a corpus any."""
    module = import_module(f"midstudy.data.builtin.{part}")
    rows: Iterable[tuple[str, dict[str, Any]]] = module.rows()
    if part in TASKS:
        rows = list(rows)
        items = TestItems(item_text(row) for split, row in rows if split == "test")
        kept = [(split, row) for split, row in rows if split == "test" or not items.overlaps(item_text(row))]
        return kept, len(rows) - len(kept)
    items = TestItems(item_text(row) for task in TASKS for row in TEXT.read(task, "test"))
    kept, removed = [], 0
    for split, row in rows:
        if items.overlaps(as_text(row, part)):
            removed += 1
        else:
            kept.append((split, row))
    return kept, removed


def item_text(row: dict[str, Any]) -> str:
    """Return prompt and target of a task row as one text, which must not occur in training text."""
    example = as_example(row, "task")
    return f"{example.prompt} {example.target}"


TEXT = Collection(
    modules="midstudy.data.builtin", list_path=LIST, parts=TASKS + CORPORA, preparation=PREPARATION, build=build
)
