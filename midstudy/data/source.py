"""Resolve a `--data` value and read its rows: built-in text, files in a folder, or a data set on the Hub.

A source that cannot be read is an error; there is no fallback to another source.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from midstudy.data import builtin, hub
from midstudy.data.files import (
    content_digest,
    file_names,
    find_split,
    numbered_rows,
    numbered_rows_of,
    open_digested,
    other_files,
    unread_files,
)
from midstudy.data.rows import as_example, as_text
from midstudy.data.splits import CORPUS_SHARE, SPLIT_NAMES, TASK_SHARE, carve, carved_splits, split_of_row
from midstudy.recipe.data import Source

_FEW_ROWS = 5
"""A carved split with fewer rows is reported, because results on it mean little."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


_KINDS = "wheels, a directory, or hub:OWNER/NAME[:CONFIG]@COMMIT"


class ChangedTextError(ValueError):
    """The text that was read differs from the text of the plan."""


def resolve_source(argument: str, *, name: str, folder: str, is_task: bool) -> Source:
    """Resolve a `--data` value for one corpus or task.

    Fast: nothing is fetched or prepared. Checks the first row of each split of a folder, and enough rows of train to know
    that each carved split has some. `note` of the result reports carved splits, unread files and unusual split names; for a
    Hub data set they are known only when it is read.

    Args:
        argument: `wheels`, a directory, or `hub:OWNER/NAME[:CONFIG]@COMMIT`.
        name: name of the corpus or task, also of its part of `wheels`.
        folder: its folder in a directory source.
        is_task: True for prompt-target pairs, false for text.

    Raises:
        ValueError: the directory, a split or a field is missing, carved splits leave train empty, the part is unknown, or
            the value is not of one of these forms.
    """
    if not argument.strip():
        raise ValueError(f"{name}: --data: expected {_KINDS}, got nothing. Is a variable not set?")
    if argument == "wheels":
        parts = builtin.TASKS if is_task else builtin.CORPORA
        if name not in parts:
            kind = "task" if is_task else "corpus"
            raise ValueError(f"{name}: the source 'wheels' has no such {kind}: expected one of {', '.join(parts)}.")
        return Source(kind="wheels", part=name, revision=builtin.list_digest())
    if argument.startswith("hub:"):
        part, config, revision = _hub_argument(argument)
        return Source(kind="hub", part=part, config=config, revision=revision)
    directory = Path(os.path.expanduser(argument))
    if not directory.is_dir():
        raise ValueError(f"{name}: --data {argument}: no such directory. Expected {_KINDS}.")
    path = (directory / folder).absolute()
    if not path.is_dir():
        if path.parent.is_dir():
            parent = f"{path.parent} holds {other_files(path.parent) or 'nothing'}"
        else:
            parent = f"{path.parent} does not exist either"
        raise ValueError(f"{name}: {path}: no such folder. Expected a folder with {file_names('train')}; {parent}.")
    carved = _carved(path, is_task)
    for split in SPLIT_NAMES:
        if find_split(path, split):
            _require_first_row(path, split, is_task)
    note = "; ".join(filter(None, (_unusual_name(path), _carved_note(path, carved, is_task), _unread(path))))
    return Source(kind="files", part="", revision=content_digest(path), location=str(path), note=note)


def require_rows(source: Source, *, split: str, is_task: bool) -> None:
    """Reject a split that is carved from train and gets no rows; for folders only.

    Fast, like `resolve_source`; for a Hub data set this is known only when it is read.

    Raises:
        ValueError: the split is empty; the message states the number of rows and the fix.
    """
    if source.kind != "files":
        return
    folder = Path(source.location)
    carved = _carved(folder, is_task)
    if split in carved:
        _require_carved_rows(folder, split, *_rows_by_split(folder, carved, is_task), is_task=is_task)


class Rows(Iterator[dict[str, Any]]):
    """The rows of one split of a source, in order. A caller that stops early must also read the `rest`.

    `is_carved`: True if the split is carved from train; it may be empty. `num_rows`: rows read so far.
    """

    def __init__(
        self, rows: Iterator[dict[str, Any]], *, is_carved: bool, rest: Callable[[], Iterator[None]] = lambda: iter(())
    ) -> None:
        self._rows, self._rest = rows, rest
        self.is_carved, self.num_rows = is_carved, 0

    def __next__(self) -> dict[str, Any]:
        row = next(self._rows, None)
        if row is None:
            for _ in self.rest():
                pass
            raise StopIteration
        self.num_rows += 1
        return row

    def rest(self) -> Iterator[None]:
        """Read the remaining text in chunks without parsing rows.

        Raises:
            ChangedTextError: at the end, if the text differs from the revision. Discard everything made from the rows.
        """
        return self._rest()


def load_rows(source: Source, *, split: str, is_task: bool, on_read: Callable[[float], None] = lambda share: None) -> Rows:
    """Return the rows of one split of a source, in order, each checked to have the fields of a layout.

    Args:
        split: `train`, `dev` or `test`; a missing split is carved from train if that is allowed.
        on_read: called regularly with the fraction of the split's file read so far; folders only.

    Raises:
        ChangedTextError: the text differs from the revision. A folder's text is digested while it is read, so this is
            raised after the last row, or by `Rows.rest`, at the latest.
        ValueError: a file, split or field is missing, or there is no network.
    """
    if source.kind == "wheels":
        if source.revision != builtin.list_digest():
            raise ValueError(
                f"wheels part {source.part!r}: expected revision {source.revision[:12]}, that of the recipe, got "
                f"{builtin.list_digest()[:12]}, that of this version of midstudy. Check out the version that made the "
                "recipe, or plan again."
            )
        return Rows(builtin.read_part(source.part, split), is_carved=False)
    if source.kind == "files":
        return _file_rows(source, split, is_task, on_read)
    return _hub_rows(source, split, is_task)


def _file_rows(source: Source, split: str, is_task: bool, on_read: Callable[[float], None]) -> Rows:
    folder = Path(source.location)
    _require_revision(source, content_digest(folder))  # from the digest cache if possible: detects changes early
    carved = _carved(folder, is_task)
    path = find_split(folder, "train" if split in carved else split)
    if path is None:
        raise ChangedTextError(f"{folder}: its files have just changed. Plan again.")
    file = open_digested(path)
    rows = _checked_rows(numbered_rows_of(file, path, on_read=on_read), str(path), is_task)

    def rest() -> Iterator[None]:
        for _ in file.rest():
            yield
        _require_revision(source, content_digest(folder, read={path: file.digest()}))

    return Rows(_of_split(rows, split, carved, is_task), is_carved=split in carved, rest=rest)


def _require_revision(source: Source, digest: str) -> None:
    if digest != source.revision:
        raise ChangedTextError(
            f"{source.location}: its files changed since the plan: expected sha256 {source.revision[:12]}, got "
            f"{digest[:12]}. Restore the files, or plan again with the changed text."
        )


def _hub_rows(source: Source, split: str, is_task: bool) -> Rows:
    where = f"hub:{source.part}"
    present = hub.present_splits(source.part, source.config, source.revision)
    carved = carved_splits(present, is_task=is_task, where=where)
    rows = hub.load(source.part, source.config, source.revision, "train" if split in carved else split)
    checked = _checked_rows(enumerate(rows, start=1), f"{where} {split}", is_task)
    return Rows(_of_split(checked, split, carved, is_task), is_carved=split in carved)


def _of_split(
    rows: Iterator[dict[str, Any]], split: str, carved: tuple[str, ...], is_task: bool
) -> Iterator[dict[str, Any]]:
    # Without carved splits, rows are not hashed, which would double the time to read short rows.
    return (
        carve(rows, split=split, carved=carved, is_task=is_task)
        if carved and (split == "train" or split in carved)
        else rows
    )


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
    if next(_checked_rows(numbered_rows(path), str(path), is_task), None) is None:
        raise ValueError(f"{path}: expected one JSON object per line, got no rows.")


def _carved(folder: Path, is_task: bool) -> tuple[str, ...]:
    present = [split for split in SPLIT_NAMES if find_split(folder, split)]
    needed = ("train", "test") if is_task else ("train",)
    missing = "; ".join(file_names(split) for split in needed if split not in present)
    unread = (unread_files(folder) or other_files(folder)) if missing else ""
    hint = f"Expected {missing}." + (f" Not read: {unread}." if unread else "")
    return carved_splits(present, is_task=is_task, where=str(folder), hint=hint)


def _rows_by_split(folder: Path, carved: tuple[str, ...], is_task: bool) -> tuple[dict[str, int], int | None]:
    """Return the number of rows of the train file that go to each split, and the number of rows.

    Stops early, with `None` as the number of rows, when train has a row and each carved split has several.
    """
    path = find_split(folder, "train")
    assert path is not None
    counts = dict.fromkeys(("train", *carved), 0)
    num_rows = 0
    for _, row in numbered_rows(path):
        num_rows += 1
        counts[split_of_row(row, carved=carved, is_task=is_task)] += 1
        if counts["train"] and all(counts[split] >= _FEW_ROWS for split in carved):
            return counts, None
    return counts, num_rows


def _carved_note(folder: Path, carved: tuple[str, ...], is_task: bool) -> str:
    if not carved:
        return ""
    counts, num_rows = _rows_by_split(folder, carved, is_task)
    _require_carved_rows(folder, "train", counts, num_rows, is_task=is_task)
    note = f"{' and '.join(carved)} carved from train by hash ({_percent(is_task)} % each)"
    if num_rows is None:
        return note
    path = find_split(folder, "train")
    assert path is not None
    numbers = " and ".join(f"{counts[split]} to {split}" for split in carved)
    return f"{note}: of the {num_rows} rows of {path.name}, {numbers}"


def _require_carved_rows(folder: Path, split: str, counts: dict[str, int], num_rows: int | None, *, is_task: bool) -> None:
    if counts[split]:
        return
    path = find_split(folder, "train")
    assert path is not None
    raise ValueError(
        f"{folder}: the {split} split is empty: of the {num_rows} rows of {path.name}, "
        f"{', '.join(f'{number} go to {name}' for name, number in counts.items())}, because "
        f"{' and '.join(name for name in counts if name != 'train')} are carved from train by hash ({_percent(is_task)} % "
        f"each). Supply {_to_supply(split, counts)}, or more rows."
    )


def _to_supply(split: str, counts: dict[str, int]) -> str:
    wanted = [split] if split != "train" else [name for name in counts if name != "train"]
    return " and ".join(f"{SPLIT_NAMES[name][0]}.jsonl" for name in wanted)


def _percent(is_task: bool) -> int:
    return round(100 * (TASK_SHARE if is_task else CORPUS_SHARE))


def _unusual_name(folder: Path) -> str:
    path = find_split(folder, "dev")
    is_usual = path is None or path.name.partition(".")[0] in SPLIT_NAMES["dev"][:2]
    return "" if path is None or is_usual else f"dev is {path.name}"


def _unread(folder: Path) -> str:
    unread = unread_files(folder)
    return f"not read: {unread}" if unread else ""


def _hub_argument(argument: str) -> tuple[str, str, str]:
    address, at, revision = argument.removeprefix("hub:").rpartition("@")
    part, colon, config = address.partition(":")
    if not at or not _HUB_NAME.fullmatch(part):
        raise ValueError(f"--data: expected hub:OWNER/NAME[:CONFIG]@COMMIT, got {argument}; the commit pins the text.")
    if colon and not config.strip():  # `datasets` would use the default configuration
        raise ValueError(
            f"--data {argument}: expected hub:{part}@COMMIT or hub:{part}:CONFIG@COMMIT, got an empty CONFIG. Is a "
            "variable not set?"
        )
    hub.require_commit(part, revision)
    hub.require_no_folder(part)
    return part, config, revision
