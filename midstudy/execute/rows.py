"""The rows of a source as a stage reads them: of files and the Hub by `data/source.py`, of prepared text from its stage."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from midstudy.data.source import load_rows
from midstudy.data.split_rows import Rows
from midstudy.execute.stopped import until_stopped
from midstudy.execute.work import Work
from midstudy.recipe.data import Source, SourceMix
from midstudy.recipe.preparation import Prepared
from midstudy.recipe.stage import stage_id


class ReadRows(Protocol):
    """Returns the rows of one split of a source, in order; see `data.source.load_rows`."""

    def __call__(
        self,
        source: Source | SourceMix | Prepared,
        *,
        split: str,
        is_task: bool,
        on_read: Callable[[float], None] = lambda share: None,
    ) -> Rows: ...


def rows_of(work: Work) -> ReadRows:
    """Return the function that reads rows for a stage, which may read those of a preparation among its parents."""
    return partial(_read, work)


def without_preparations(
    source: Source | SourceMix | Prepared,
    *,
    split: str,
    is_task: bool,
    on_read: Callable[[float], None] = lambda share: None,
) -> Rows:
    """Return the rows of a source that no stage has to prepare."""
    assert not isinstance(source, Prepared), "prepared text is read with rows_of(work)"
    return load_rows(source, split=split, is_task=is_task, on_read=on_read)


def read_rest(rows: Rows, should_stop: Callable[[], bool], *, then: str) -> None:
    """Read the text after a limit, because the digest in the plan covers all of it.

    Raises:
        ChangedTextError: the text differs from that of the plan.
        StoppedError: `should_stop` returned true.
    """
    for _ in until_stopped(rows.rest(), should_stop, doing="the rest of the text was read", then=then):
        pass


def _read(
    work: Work,
    source: Source | SourceMix | Prepared,
    *,
    split: str,
    is_task: bool,
    on_read: Callable[[float], None] = lambda share: None,
) -> Rows:
    if not isinstance(source, Prepared):
        return load_rows(source, split=split, is_task=is_task, on_read=on_read)
    path = work.unchanged(stage_id(source)) / f"{split}.jsonl"
    # Dev and test may be empty, as a split that is carved may be; the stage refuses an empty train split.
    return Rows(_lines(path, on_read), is_carved=split != "train")


def _lines(path: Path, on_read: Callable[[float], None]) -> Iterator[dict[str, Any]]:
    size, read = max(1, path.stat().st_size), 0
    with path.open("rb") as file:
        for line in file:
            read += len(line)
            on_read(read / size)
            yield json.loads(line)
