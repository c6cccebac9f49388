"""Estimate the text size of a data set before it is read, for the cost estimate of tokenisation."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from midstudy.data import builtin
from midstudy.data.cache import cache_dir
from midstudy.data.split_files import split_files
from midstudy.data.splits import SPLIT_NAMES
from midstudy.recipe.data import Dataset, Source, SourceMix, Task, sources_of

_TEXT_RATIO = {".gz": 3.0, ".zst": 3.5, ".parquet": 2.5}
"""Bytes of text per byte of a compressed file, by the end of its name."""

_ITEM_BYTES = 500
"""Bytes per task item if the source does not state them."""

_UNKNOWN_BYTES = 100_000_000
"""Assumed bytes of a Hub split, whose size is unknown before it is read."""

_EVALUATION_SHARE = 0.05
"""Assumed size of a Hub dev or test split, as a fraction of train."""


def text_bytes(data: Dataset) -> float:
    """Return the expected UTF-8 bytes of all splits of a data set: up to its `max_bytes` or `max_items`, and in its part."""
    sizes = _split_sizes(data.source)
    if isinstance(data, Task):
        most = data.max_items
        return sum(size if most is None else size * min(1.0, most / items) for size, items in sizes.values())
    share = {"train": float(data.train_part.share)} if data.train_part else {}
    return sum(min(size, data.max_bytes or size) * share.get(split, 1.0) for split, (size, _) in sizes.items())


def _split_sizes(source: Source | SourceMix) -> dict[str, tuple[float, float]]:
    """Return the expected bytes and rows of each split; empty if the folder or part does not exist.

    The text of a mix ends when a part does: it has the bytes that its scarcest part allows.
    """
    if isinstance(source, SourceMix):
        parts = [(_split_sizes(part.source), float(part.share)) for part in source.parts]
        mixed = {}
        for split in SPLIT_NAMES:
            if all(split in sizes for sizes, _ in parts):
                size, rows, share = min(((*sizes[split], share) for sizes, share in parts), key=lambda one: one[0] / one[2])
                mixed[split] = (size / share, rows / share)
        return mixed
    if source.kind == "declared":
        return {"train": (source.num_bytes, max(1.0, source.num_bytes / _ITEM_BYTES))}
    if source.kind == "wheels":
        part = _frozen_parts().get(source.part, {"splits": {}})
        return {name: (split["bytes"], max(1, split["docs"])) for name, split in part["splits"].items()}
    if source.kind == "files":
        files = {split: split_files(Path(source.location), split) for split in SPLIT_NAMES}
        sizes = {
            split: sum(_TEXT_RATIO.get(path.suffix, 1.0) * path.stat().st_size for path in paths)
            for split, paths in files.items()
            if paths
        }
    else:
        sizes = {split: _UNKNOWN_BYTES * (1.0 if split == "train" else _EVALUATION_SHARE) for split in SPLIT_NAMES}
    return {split: (size, max(1.0, size / _ITEM_BYTES)) for split, size in sizes.items()}


def unprepared_parts(source: Source | SourceMix) -> dict[str, float]:
    """Map each built-in (`wheels`) part to prepare before this source can be read to its text size in bytes."""
    if isinstance(source, SourceMix):
        return {part: size for one in sources_of(source) for part, size in unprepared_parts(one).items()}
    if source.kind != "wheels":
        return {}
    folder = cache_dir() / "prepared" / builtin.list_digest()[:16]
    parts = frozenset((source.part, *(builtin.TASKS if source.part not in builtin.TASKS else ())))
    known = _frozen_parts()
    return {
        part: sum(split["bytes"] for split in known[part]["splits"].values())
        for part in sorted(parts & known.keys())
        if not (folder / part).is_dir()
    }


@cache
def _frozen_parts() -> dict[str, Any]:
    return builtin.frozen_manifest()["parts"]
