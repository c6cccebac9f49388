"""Estimate the text size of a data set before it is read, for the cost estimate of tokenisation."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from midstudy.data import builtin
from midstudy.data.cache import cache_dir
from midstudy.data.files import SPLIT_NAMES, find_split
from midstudy.recipe.data import Dataset, Source, Task

_GZIP_RATIO = 3.0
"""Bytes of text per byte of gzip."""

_ITEM_BYTES = 500
"""Bytes per task item if the source does not state them."""

_UNKNOWN_BYTES = 100_000_000
"""Assumed bytes of a Hub split, whose size is unknown before it is read."""

_EVALUATION_SHARE = 0.05
"""Assumed size of a Hub dev or test split, as a fraction of train."""


def text_bytes(data: Dataset) -> float:
    """Return the expected UTF-8 bytes of all splits of a data set, up to its `max_bytes` or `max_items`."""
    sizes = _split_sizes(data.source)
    if isinstance(data, Task):
        most = data.max_items
        return sum(num_bytes if most is None else num_bytes * min(1.0, most / items) for num_bytes, items in sizes)
    return sum(min(num_bytes, data.max_bytes or num_bytes) for num_bytes, _ in sizes)


def _split_sizes(source: Source) -> list[tuple[float, float]]:
    """Return the expected bytes and rows of each split; empty if the folder or part does not exist."""
    if source.kind == "wheels":
        part = _frozen_parts().get(source.part, {"splits": {}})
        return [(split["bytes"], max(1, split["docs"])) for split in part["splits"].values()]
    if source.kind == "files":
        paths = [find_split(Path(source.location), split) for split in SPLIT_NAMES]
        sizes = [_GZIP_RATIO ** (path.suffix == ".gz") * path.stat().st_size for path in paths if path is not None]
    else:
        sizes = [_UNKNOWN_BYTES * share for share in (1.0, _EVALUATION_SHARE, _EVALUATION_SHARE)]
    return [(size, max(1.0, size / _ITEM_BYTES)) for size in sizes]


def unprepared_parts(source: Source) -> dict[str, float]:
    """Map each built-in (`wheels`) part to prepare before this source can be read to its text size in bytes."""
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
