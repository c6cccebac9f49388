"""The first row of a source as it will be read, cut to a line: what a plan shows, so that a wrong field is seen early."""

from __future__ import annotations

import json

from midstudy.data.rows import as_example, as_text
from midstudy.data.source import load_rows
from midstudy.recipe.data import Source

_CHARACTERS = 100


def first_row(source: Source, *, is_task: bool) -> str:
    """Return the first train row of files or of a Hub data set, in quotes; for a task, prompt → target.

    Nothing is fetched for built-in text, whose first row is not shown, as for text that is only declared: the result is
    empty. For a Hub data set the first
    rows are fetched. A row that cannot be read gives the reason instead; the data stage will fail with it.
    """
    if source.kind in ("wheels", "declared"):
        return ""
    try:
        row = next(load_rows(source, split="train", is_task=is_task), None)
        if row is None:
            return "not shown: the train split has no rows"
        if not is_task:
            return _quoted(as_text(row, ""), _CHARACTERS)
        example = as_example(row, "")
        return f"{_quoted(example.prompt, _CHARACTERS // 2)} → {_quoted(example.target, _CHARACTERS // 2)}"
    except ValueError as error:
        return f"not shown: {error}"


def _quoted(text: str, num_characters: int) -> str:
    """Return the start of a text in quotes, on one line; cut texts end in an ellipsis."""
    cut = f"{text[:num_characters]}…" if len(text) > num_characters else text
    return json.dumps(cut, ensure_ascii=False)
