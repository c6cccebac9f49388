"""Estimate the text size of a data set before it is read, for the cost estimate of tokenisation."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from midstudy.data import builtin, hub
from midstudy.data.source_files import text_ratio
from midstudy.data.split_files import split_files
from midstudy.data.splits import SPLIT_NAMES
from midstudy.recipe.data import Corpus, Dataset, Source, SourceMix, Task, sources_of
from midstudy.recipe.preparation import Prepared

ITEM_BYTES = 500
"""Bytes per task item if the source does not state them."""

_UNKNOWN_BYTES = 100_000_000
"""Assumed bytes of a Hub split that cannot be listed."""

_EVALUATION_SHARE = 0.05
"""Assumed size of a Hub dev or test split, as a fraction of train."""


def text_bytes(data: Dataset) -> float:
    """Return the expected UTF-8 bytes of all splits of a data set: up to its `max_bytes` or `max_items`, and in its part."""
    sizes = _split_sizes(data.source)
    if isinstance(data, Task):
        most = data.max_items
        return sum(size if most is None else size * min(1.0, most / items) for size, items in sizes.values())
    return sum(_kept_bytes(data, split, size) for split, (size, _) in sizes.items())


def _kept_bytes(corpus: Corpus, split: str, num_bytes: float) -> float:
    """Return the bytes of a split within the corpus's limit, and of train in its part."""
    share = float(corpus.train_part.share) if corpus.train_part and split == "train" else 1.0
    return min(num_bytes, corpus.max_bytes or num_bytes) * share


def train_size(task: Task) -> tuple[float, float]:
    """Return the expected UTF-8 bytes and items of a task's train split; zeros if the folder or part does not exist."""
    num_bytes, num_items = _split_sizes(task.source).get("train", (0.0, 0.0))
    kept = min(1.0, (num_items if task.max_items is None else task.max_items) / max(1.0, num_items))
    return num_bytes * kept, num_items * kept


def _split_sizes(source: Source | SourceMix | Prepared) -> dict[str, tuple[float, float]]:
    """Return the expected bytes and rows of each split; empty if the folder or part does not exist.

    The text of a mix ends when a part does: it has the bytes that its scarcest part allows. What steps leave out is not
    known before, so that a preparation has the bytes of what it reads.
    """
    if isinstance(source, Prepared):
        whole: dict[str, tuple[float, float]] = {}
        for corpus in source.of:
            for split, (size, rows) in _split_sizes(corpus.source).items():
                kept = _kept_bytes(corpus, split, size)
                before = whole.get(split, (0.0, 0.0))
                whole[split] = (before[0] + kept, before[1] + rows * kept / max(1.0, size))
        return whole
    if isinstance(source, SourceMix):
        parts = [(_split_sizes(part.source), float(part.share)) for part in source.parts]
        mixed = {}
        for split in SPLIT_NAMES:
            if all(split in sizes for sizes, _ in parts):
                size, rows, share = min(((*sizes[split], share) for sizes, share in parts), key=lambda one: one[0] / one[2])
                mixed[split] = (size / share, rows / share)
        return mixed
    if source.kind == "declared":
        return {"train": (source.num_bytes, max(1.0, source.num_bytes / ITEM_BYTES))}
    if source.kind == "wheels":
        return {name: (split["bytes"], max(1, split["docs"])) for name, split in _frozen_splits(source.part).items()}
    if source.kind == "files":
        files = {split: split_files(Path(source.location), split) for split in SPLIT_NAMES}
        sizes = {
            split: sum(text_ratio(path.name) * path.stat().st_size for path in paths)
            for split, paths in files.items()
            if paths
        }
    else:
        sizes = _hub_sizes(source)
    return {split: (size, max(1.0, size / ITEM_BYTES)) for split, size in sizes.items()}


def _hub_sizes(source: Source) -> dict[str, float]:
    """Return the expected bytes of each split from the sizes of its files, or assumed ones without network."""
    try:
        listed = hub.files(source.part, source.config, source.revision)
    except ValueError:  # the data stage reports it
        return {split: _UNKNOWN_BYTES * (1.0 if split == "train" else _EVALUATION_SHARE) for split in SPLIT_NAMES}
    return {split: sum(text_ratio(name) * num_bytes for name, num_bytes in files) for split, files in listed.items()}


def unprepared_parts(source: Source | SourceMix | Prepared) -> dict[str, float]:
    """Map each built-in (`wheels`) part to prepare before this source can be read to its text size in bytes."""
    if not isinstance(source, Source):
        return {part: size for one in sources_of(source) for part, size in unprepared_parts(one).items()}
    if source.kind != "wheels":
        return {}
    needed = builtin.needed_for(source.part) if source.part in builtin.PARTS + builtin.CONVERSATIONS else frozenset()
    return {
        part: sum(split["bytes"] for split in _frozen_splits(part).values())
        for part in sorted(needed)
        if not (builtin.collection_of(part).folder / part).is_dir()
    }


@cache
def _frozen_splits(part: str) -> dict[str, Any]:
    """Return the documents and bytes of each split of a built-in part; nothing for a part that does not exist."""
    return builtin.part_facts(part)["splits"] if part in builtin.PARTS + builtin.CONVERSATIONS else {}
