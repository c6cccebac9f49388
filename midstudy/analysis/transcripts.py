"""The table of transcripts: the first answers of every finished evaluation that generates them."""

from __future__ import annotations

import json

import pandas as pd

from midstudy.recipe.generation import TRANSCRIPTS_FILE
from midstudy.recipe.manifest import Manifest
from midstudy.store.store import Store

MOST_ITEMS = 4
"""Items of an evaluation in the table; its folder in the store has all of them."""


def transcripts_table(store: Store, manifest: Manifest) -> pd.DataFrame | None:
    """Return one row per arm, measured column, item and sample of the first `MOST_ITEMS` items; `None` if there are none.

    Columns: arm (its row), column, item, sample, text (of the answer, without tool calls), reference, right, well_formed,
    tool_calls_answered.
    """
    measured = {one for arm in manifest.arms for ids in arm.measures.values() for one in ids}
    first: dict[str, list[dict[str, object]]] = {}
    for one, record in store.records(measured).items():
        if TRANSCRIPTS_FILE in record.files:
            lines = (store.published_folder(one) / TRANSCRIPTS_FILE).read_text("utf-8").splitlines()
            first[one] = _first_items([json.loads(line) for line in lines])
    rows = [
        {"arm": row, "column": column, **line}
        for row, arm in enumerate(manifest.arms)
        for column, ids in arm.measures.items()
        for one in ids
        for line in first.get(one, ())
    ]
    return pd.DataFrame(rows) if rows else None


def _first_items(lines: list[dict[str, object]]) -> list[dict[str, object]]:
    kept = dict.fromkeys(list(dict.fromkeys(line["item"] for line in lines))[:MOST_ITEMS])
    shown = ("item", "sample", "text", "reference", "right", "well_formed", "tool_calls_answered")
    return [{name: line[name] for name in shown} for line in lines if line["item"] in kept]
