"""The three kinds of source behind one door: what a `--data` value names, and the rows it holds.

Nothing falls back to another source: what cannot be read as asked is an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from midstudy.data import hub, wheels
from midstudy.data.files import SPLIT_NAMES, content_digest, find_split, numbered_rows
from midstudy.data.rows import as_example, as_text
from midstudy.data.splits import CORPUS_SHARE, TASK_SHARE, carve, carved_splits
from midstudy.recipe.data import Source


def resolve_source(argument: str, *, name: str, folder: str, is_task: bool) -> Source:
    """The source that a `--data` value names for one corpus or task.

    Quick: nothing is fetched or prepared. The first row of each split of a folder is checked. Splits that will be
    carved from train are told in `note`; those of a hub data set are known only when it is read.

    Args:
        argument: `wheels`, a directory, or `hub:OWNER/NAME[:CONFIG]@COMMIT`.
        name: the corpus's or task's name, also that of its part of the wheels.
        folder: where it lies in a directory source.
        is_task: prompt-target pairs rather than text.

    Raises:
        ValueError: the directory, a split or a field is missing, the part is unknown, or the value is none of these.
    """
    if argument == "wheels":
        parts = wheels.TASKS if is_task else wheels.CORPORA
        if name not in parts:
            kind = "task" if is_task else "corpus"
            raise ValueError(f"{name}: the source 'wheels' has no such {kind}; allowed: {', '.join(parts)}.")
        return Source(kind="wheels", part=name, revision=wheels.list_digest())
    if argument.startswith("hub:"):
        part, config, revision = _hub_argument(argument)
        return Source(kind="hub", part=part, config=config, revision=revision)
    directory = Path(os.path.expanduser(argument))
    if not directory.is_dir():
        raise ValueError(
            f"{name}: --data {argument}: no such directory; allowed: wheels, a directory, or hub:OWNER/NAME[:CONFIG]@COMMIT."
        )
    where = (directory / folder).absolute()
    if not where.is_dir():
        raise ValueError(f"{name}: {where}: no such folder; allowed: a folder with train.jsonl or train.jsonl.gz.")
    carved = _carved(where, is_task)
    for split in SPLIT_NAMES:
        if find_split(where, split):
            _require_first_row(where, split, is_task)
    return Source(kind="files", part="", revision=content_digest(where), location=str(where), note=_told(carved, is_task))


def load_rows(
    source: Source, *, split: str, is_task: bool, on_read: Callable[[float], None] = lambda share: None
) -> Iterator[dict[str, Any]]:
    """The rows of one split of a source, in order, each checked to have the fields of a layout.

    Args:
        split: `train`, `dev` or `test`; one that the source lacks is carved from train where that is allowed.
        on_read: told now and then the share, 0 to 1, of the split's file that was read; only of a folder's files.

    Raises:
        ValueError: the text is not the one the revision names (drift), or a file, split, field or network is missing.
    """
    if source.kind == "wheels":
        if source.revision != wheels.list_digest():
            raise ValueError(
                f"wheels part {source.part!r}: the recipe names revision {source.revision[:12]}, this version of "
                f"midstudy has {wheels.list_digest()[:12]}. Check out the version the recipe was made with, or plan anew."
            )
        yield from wheels.read_part(source.part, split)
    elif source.kind == "files":
        yield from _file_rows(source, split, is_task, on_read)
    else:
        yield from _hub_rows(source, split, is_task)


def _file_rows(source: Source, split: str, is_task: bool, on_read: Callable[[float], None]) -> Iterator[dict[str, Any]]:
    folder = Path(source.location)
    found = content_digest(folder)
    if found != source.revision:
        raise ValueError(
            f"{folder}: its files changed: sha256 {found[:12]}; allowed: {source.revision[:12]}, that of the plan. "
            "Restore the files, or plan anew for the changed text."
        )
    carved = _carved(folder, is_task)
    path = find_split(folder, "train" if split in carved else split)
    assert path is not None
    rows = _checked(path, is_task, on_read)
    yield from carve(rows, split=split, carved=carved, is_task=is_task) if split == "train" or split in carved else rows


def _hub_rows(source: Source, split: str, is_task: bool) -> Iterator[dict[str, Any]]:
    present = hub.present_splits(source.part, source.config, source.revision)
    carved = carved_splits(present, is_task=is_task, where=f"hub:{source.part}")
    rows = hub.load(source.part, source.config, source.revision, "train" if split in carved else split)
    checked = _checked_rows(enumerate(rows, start=1), f"hub:{source.part} {split}", is_task)
    yield from (
        carve(checked, split=split, carved=carved, is_task=is_task) if split == "train" or split in carved else checked
    )


def _checked(path: Path, is_task: bool, on_read: Callable[[float], None] = lambda share: None) -> Iterator[dict[str, Any]]:
    return _checked_rows(numbered_rows(path, on_read=on_read), str(path), is_task)


def _checked_rows(rows: Iterator[tuple[int, dict[str, Any]]], where: str, is_task: bool) -> Iterator[dict[str, Any]]:
    for number, row in rows:
        _require_fields(row, f"{where}:{number}", is_task)
        yield row


def _require_fields(row: dict[str, Any], where: str, is_task: bool) -> None:
    if is_task:
        as_example(row, where)
    else:
        as_text(row, where)


def _require_first_row(folder: Path, split: str, is_task: bool) -> None:
    path = find_split(folder, split)
    assert path is not None
    if next(_checked(path, is_task), None) is None:
        raise ValueError(f"{path}: no rows; allowed: one JSON object a line.")


def _carved(folder: Path, is_task: bool) -> tuple[str, ...]:
    present = [split for split in SPLIT_NAMES if find_split(folder, split)]
    return carved_splits(present, is_task=is_task, where=str(folder))


def _told(carved: tuple[str, ...], is_task: bool) -> str:
    percent = round(100 * (TASK_SHARE if is_task else CORPUS_SHARE))
    return f"{' and '.join(carved)} carved from train by hash ({percent} % each)" if carved else ""


def _hub_argument(argument: str) -> tuple[str, str, str]:
    address, at, revision = argument.removeprefix("hub:").rpartition("@")
    part, _, config = address.partition(":")
    if not at or not part:
        raise ValueError(f"--data {argument}: allowed: hub:OWNER/NAME[:CONFIG]@COMMIT; the commit pins the text.")
    hub.require_commit(part, revision)
    return part, config, revision
