"""The tally of a split that was read as text: documents or items, up to a limit and in a part of train."""

from __future__ import annotations

from typing import Any

from midstudy.data.limit import Limited
from midstudy.data.split_rows import Rows
from midstudy.data.tally import Tally
from midstudy.data.train_part import InPart
from midstudy.recipe.data import Corpus, Dataset


def tally_of_read(read: Limited[Any] | InPart[Any], rows: Rows, *, data: Dataset, split: str, use: str) -> Tally:
    """Return what a use of a split read and left out; call this after the iteration."""
    is_corpus = isinstance(data, Corpus)
    num_blank = read.num_blank if is_corpus else 0  # a task rejects empty targets
    return Tally(
        data=data.name,
        split=split,
        use=use,
        unit="documents" if is_corpus else "items",
        used=read.num_items - num_blank,
        left_out={**read.left_out, **rows.left_out, **({"empty": num_blank} if num_blank else {})},
        is_whole=read.is_whole and rows.is_whole,
    )


def text_tally(read: Limited[Any] | InPart[Any], rows: Rows, *, data: Dataset, split: str, is_empty: bool) -> Tally:
    """Return the tally of a split that was read to its end.

    Raises:
        ValueError: a split that is not carved from train is empty, or a part of train, or almost nothing of it is left.
    """
    if isinstance(read, InPart):
        read.require_any(f"corpora.{data.name}")
    if is_empty and not (rows.is_carved and rows.num_rows == 0):  # the plan rejects uses of an empty split
        raise ValueError(f"{data.name}: the {split} split of {data.source} is empty.")
    tally = tally_of_read(read, rows, data=data, split=split, use="text")
    tally.require_enough()
    return tally


def logged(tally: Tally) -> dict[str, Any]:
    """Return the metrics for the record; log the tally if anything is left out."""
    if tally.left_out:
        print(tally.sentence, flush=True)
    return tally.as_metrics()
