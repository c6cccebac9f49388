"""Carve missing dev and test splits from train by hash.

A row's split depends on its content alone, so adding, removing or moving other rows does not change it, and equal rows are
always in the same split.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

SPLIT_NAMES = {"train": ("train",), "dev": ("validation", "dev", "valid", "val"), "test": ("test",)}
"""Accepted names of each split, as file names without extension and on the Hub."""

CORPUS_SHARE = 0.02
TASK_SHARE = 0.05


def unit_hash(text: str) -> float:
    """Return a number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:6], "big") / 2**48


def split_by_hash(key: str, *, dev: float, test: float) -> str:
    """Return the split of a key, given the shares of dev and test."""
    place = unit_hash(key)
    return "test" if place < test else "dev" if place < test + dev else "train"


def carved_splits(present: Iterable[str], *, is_task: bool, where: str, hint: str = "") -> tuple[str, ...]:
    """Return the splits to carve from train, in the order of their hash ranges.

    Args:
        present: the splits that the data set has.
        is_task: True for a task. Its test split is never carved, since results are reported on it.
        where: how messages name the data set.
        hint: further text for error messages, such as the accepted file names and the files present.

    Raises:
        ValueError: the train split, or a task's test split, is missing.
    """
    has = set(present)
    needed = ("train", "test") if is_task else ("train",)
    for split in needed:
        if split not in has:
            raise ValueError(
                f"{where}: the {split} split is missing: expected {' and '.join(needed)}, "
                f"got {', '.join(sorted(has)) or 'none'}. "
                + ("Results of a task are reported on its test split: supply one." if split == "test" else "Supply one.")
                + f" {hint}".rstrip()
            )
    return tuple(split for split in ("dev", "test") if split not in has)


def carve(rows: Iterable[dict[str, Any]], *, split: str, carved: tuple[str, ...], is_task: bool) -> Iterator[dict[str, Any]]:
    """Return the rows of a train file that belong to `split` when the splits in `carved` are taken from it.

    Each carved split gets 5 % of a task's rows or 2 % of a corpus's: the first split the hashes in [0, share), the second
    those in [share, 2 share).
    """
    assert split == "train" or split in carved
    return (row for row in rows if split_of_row(row, carved=carved, is_task=is_task) == split)


def split_of_row(row: Mapping[str, Any], *, carved: tuple[str, ...], is_task: bool) -> str:
    """Return the split of a row of a train file when `carved` splits are taken from it."""
    if isinstance(row.get("messages"), tuple):  # a conversation: its choices do not move it to another split
        row = {"messages": row["messages"]}
    number = int(unit_hash(canonical_row(row)) / (TASK_SHARE if is_task else CORPUS_SHARE))
    return carved[number] if number < len(carved) else "train"


def canonical_row(row: Mapping[str, Any]) -> str:
    """Return the JSON of a row with sorted keys, independent of how the file was written.

    Values of Parquet that JSON does not have are written as text: dates and decimals as they are printed, bytes in hex.

    Raises:
        ValueError: a value has no fixed form as text, such as an image.
    """
    return json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=_value_as_text)


def _value_as_text(value: Any) -> str:
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta | Decimal):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    raise ValueError(
        f"expected rows of text, numbers, dates and bytes, got {type(value).__name__}. Declare the fields that are text: "
        "--data NAME=SOURCE,text=FIELD."
    )
