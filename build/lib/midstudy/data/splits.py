"""Which split a row belongs to where a data set does not say: dev and test carved from train by hash.

A row's place depends on its content alone, so adding, removing or moving other rows never moves it, and equal rows
never end up in two splits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

SPLIT_NAMES = {"train": ("train",), "dev": ("validation", "dev", "valid", "val"), "test": ("test",)}
"""Accepted names of each split, as file names without extension and on the Hub."""

CORPUS_SHARE = 0.02
TASK_SHARE = 0.05


def unit_hash(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:6], "big") / 2**48


def split_by_hash(key: str, *, dev: float, test: float) -> str:
    """The split of everything that shares a key, by shares of dev and test."""
    place = unit_hash(key)
    return "test" if place < test else "dev" if place < test + dev else "train"


def carved_splits(present: Iterable[str], *, is_task: bool, where: str, hint: str = "") -> tuple[str, ...]:
    """The splits that have to be carved from train, in the order of their hash ranges.

    Args:
        present: the splits the data set has.
        is_task: a task's test split is what is reported, so it is never carved.
        where: how a message names the data set.
        hint: further text for error messages, such as the accepted names and the names found.

    Raises:
        ValueError: the train split, or a task's test split, is missing.
    """
    has = set(present)
    needed = ("train", "test") if is_task else ("train",)
    for split in needed:
        if split not in has:
            raise ValueError(
                f"{where}: the {split} split is missing; found: {', '.join(sorted(has)) or 'none'}. "
                + ("A task is reported on its test split: supply one." if split == "test" else "Supply one.")
                + f" {hint}".rstrip()
            )
    return tuple(split for split in ("dev", "test") if split not in has)


def carve(rows: Iterable[dict[str, Any]], *, split: str, carved: tuple[str, ...], is_task: bool) -> Iterator[dict[str, Any]]:
    """The rows of a train file that belong to `split` when the splits in `carved` are taken out of it.

    5 % of a task's and 2 % of a corpus's rows go to each carved split: the first to hashes [0, share), the second to
    [share, 2 share).
    """
    assert split == "train" or split in carved
    return (row for row in rows if place_of(row, carved=carved, is_task=is_task) == split)


def place_of(row: Mapping[str, Any], *, carved: tuple[str, ...], is_task: bool) -> str:
    """The split that a row of a train file falls to when `carved` splits are taken from it."""
    number = int(unit_hash(canonical_row(row)) / (TASK_SHARE if is_task else CORPUS_SHARE))
    return carved[number] if number < len(carved) else "train"


def canonical_row(row: Mapping[str, Any]) -> str:
    """JSON of a row with sorted keys: the same text however the file was written."""
    return json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
