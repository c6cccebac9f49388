"""Resolve a `--data` value and read its rows: built-in text, files, or a data set on the Hub.

A source that cannot be read is an error; there is no fallback to another source.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from midstudy.data import builtin, hub
from midstudy.data.file_sequence import FileSequence
from midstudy.data.files import content_digest
from midstudy.data.mixed_rows import MixedRows
from midstudy.data.rows import as_example, as_text, is_undeclared_conversation, with_fields
from midstudy.data.source_argument import PLACES, SourceArgument
from midstudy.data.split_files import ENDINGS, ending_of, file_names, other_files, split_files, unread_files
from midstudy.data.split_rows import ChangedTextError, Rows
from midstudy.data.splits import CORPUS_SHARE, SPLIT_NAMES, TASK_SHARE, carve, carved_splits, split_of_row
from midstudy.recipe.data import TEXT_FIELDS, Source, SourceMix
from midstudy.recipe.preparation import Prepared

_FEW_ROWS = 5
"""A carved split with fewer rows is reported, because results on it mean little."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def resolve_sources(arguments: Sequence[str], *, name: str, folder: str, is_task: bool) -> Source | SourceMix:
    """Resolve all `--data` values of one corpus or task: one, or several that each state their share of a corpus.

    For the arguments and what is checked see `resolve_source`.

    Raises:
        RecipeError: shares do not add up to 1, or a source is given twice.
        ValueError: a share is missing or is given to the only source, or a task has several sources.
    """
    shares = [SourceArgument.parse(argument, name=name).share for argument in arguments]
    if len(arguments) == 1 and shares[0] is None:
        return resolve_source(arguments[0], name=name, folder=folder, is_task=is_task, may_be_itself=True)
    if len(arguments) == 1:
        raise ValueError(f"{name}: --data {arguments[0]}: expected a second source beside a share, got one. Leave it out.")
    if is_task:
        raise ValueError(f"{name}: expected one source for a task, got {len(arguments)}. Only a corpus may mix sources.")
    if None in shares:
        raise ValueError(
            f"{name}: --data {arguments[shares.index(None)]}: expected each name once, or a share for each of its sources, "
            "such as share=0.7, got none."
        )
    sources = [
        resolve_source(argument, name=name, folder=folder, is_task=is_task, may_be_itself=True) for argument in arguments
    ]
    if len(set(sources)) < len(sources):
        raise ValueError(f"{name}: expected each source once, got {' and '.join(arguments)}.")
    return SourceMix.of(dict(zip(sources, map(str, shares), strict=True)))


def resolve_source(argument: str, *, name: str, folder: str, is_task: bool, may_be_itself: bool = False) -> Source:
    """Resolve a `--data` value for one corpus or task, without its share.

    Fast: nothing is fetched or prepared. Checks the first row of each split of files, and enough rows of train to know
    that each carved split has some. `note` of the result reports carved splits, unread files and unusual split names; for a
    Hub data set they are known only when it is read.

    Args:
        argument: `wheels`, a directory, a file or `hub:OWNER/NAME[:CONFIG]@COMMIT`, and the declared fields
            (`source_argument.py`).
        name: name of the corpus or task, also of its part of `wheels`.
        folder: its folder in a directory source.
        is_task: True for prompt-target pairs, false for text.
        may_be_itself: True if a directory that has a train split but no such folder is the data set itself.

    Raises:
        ValueError: the directory, a split or a field is missing, carved splits leave train empty, the part is unknown, or
            the value is not of one of these forms.
    """
    stated = SourceArgument.parse(argument, name=name)
    if is_task and stated.fields and stated.fields[0][0] in TEXT_FIELDS:
        raise ValueError(
            f"{name}: --data {argument}: a task needs prompt=FIELD,completion=FIELD or messages=FIELD, got text=."
        )
    if stated.place == "wheels":
        # Conversations may be a task or a corpus; a corpus is trained on.
        parts = (
            (*builtin.TASKS, *builtin.CONVERSATIONS)
            if is_task
            else (*builtin.CORPORA, *(part for part in builtin.CONVERSATIONS if part not in builtin.TEST_ONLY))
        )
        if name not in parts:
            kind = "task" if is_task else "corpus"
            raise ValueError(f"{name}: the source 'wheels' has no such {kind}: expected one of {', '.join(parts)}.")
        if stated.fields:
            raise ValueError(f"{name}: --data {argument}: the fields of 'wheels' are fixed: expected none declared.")
        source = Source(kind="wheels", part=name, revision=builtin.collection_of(name).revision)
        return replace(source, fields=(("messages", "messages"),)) if name in builtin.CONVERSATIONS else source
    if stated.place.startswith("hub:"):
        part, config, revision = _hub_argument(stated.place)
        return Source(kind="hub", part=part, config=config, revision=revision, fields=stated.fields)
    place = _place(stated.place, name=name, folder=folder, is_task=is_task, may_be_itself=may_be_itself)
    carved = carved_in(place, is_task)
    fields = stated.fields or _fields_of_conversations(place)
    unnoted = Source(kind="files", part="", revision=content_digest(place), location=str(place), fields=fields)
    for split in SPLIT_NAMES:
        if split_files(place, split):
            _require_first_row(unnoted, split, is_task)
    note = "; ".join(filter(None, (_unusual_name(place), _carved_note(unnoted, carved, is_task), _unread(place))))
    return replace(unnoted, note=note)


def _fields_of_conversations(place: Path) -> tuple[tuple[str, str], ...]:
    """Return the declaration of messages if the first row of train has them and the fields of no layout; else nothing."""
    _, row = next(FileSequence(split_files(place, "train")).rows(), ("", {}))
    return (("messages", "messages"),) if is_undeclared_conversation(row) else ()


def _place(stated: str, *, name: str, folder: str, is_task: bool, may_be_itself: bool) -> Path:
    """Return the folder or file that holds a data set."""
    given = Path(os.path.expanduser(stated))
    if given.is_file():
        if ending_of(given) is None:
            raise ValueError(f"{name}: {given}: expected a file that ends in {', '.join(ENDINGS)}, got {given.name}.")
        if is_task:
            raise ValueError(
                f"{name}: {given}: expected a folder with a train and a test split, got one file. Results of a task are "
                "reported on its test split: supply one."
            )
        return given.absolute()
    if not given.is_dir():
        raise ValueError(f"{name}: --data {stated}: no such directory. Expected {PLACES}.")
    path = (given / folder).absolute()
    if path.is_dir():
        return path
    if may_be_itself and split_files(given, "train"):
        return given.absolute()
    if path.parent.is_dir():
        parent = f"{path.parent} holds {other_files(path.parent) or 'no other folder'}"
    else:
        parent = f"{path.parent} does not exist either"
    raise ValueError(f"{name}: {path}: no such folder. Expected a folder with {file_names('train')}; {parent}.")


def require_rows(source: Source | SourceMix | Prepared, *, split: str, is_task: bool) -> None:
    """Reject a split that is carved from train and gets no rows; for files only.

    Fast, like `resolve_source`; for a Hub data set this is known only when it is read.

    Raises:
        ValueError: the split is empty; the message states the number of rows and the fix.
    """
    if isinstance(source, SourceMix):
        for part in source.parts:
            require_rows(part.source, split=split, is_task=is_task)
        return
    if isinstance(source, Prepared):
        for corpus in source.of:
            require_rows(corpus.source, split=split, is_task=is_task)
        return
    if source.kind != "files":
        return
    place = Path(source.location)
    carved = carved_in(place, is_task)
    if split in carved:
        _require_carved_rows(place, split, *_rows_by_split(source, carved, is_task), is_task=is_task)


def load_rows(
    source: Source | SourceMix, *, split: str, is_task: bool, on_read: Callable[[float], None] = lambda share: None
) -> Rows:
    """Return the rows of one split of a source, in order, each checked to have the fields of a layout.

    The sources of a mix are each read so, and interleaved (`mixed_rows.py`).

    Args:
        split: `train`, `dev` or `test`; a missing split is carved from train if that is allowed.
        on_read: called regularly with the fraction of the split's files read so far; files only.

    Raises:
        ChangedTextError: the text differs from the revision. A folder's text is digested while it is read, so this is
            raised after the last row, or by `Rows.rest`, at the latest.
        ValueError: a file, split or field is missing, or there is no network.
    """
    if isinstance(source, SourceMix):
        parts = [load_rows(part.source, split=split, is_task=is_task, on_read=on_read) for part in source.parts]
        return MixedRows(parts, [part.share for part in source.parts])
    if source.kind == "wheels":
        revision = builtin.collection_of(source.part).revision
        if source.revision != revision:
            raise ValueError(
                f"wheels part {source.part!r}: expected revision {source.revision[:12]}, that of the recipe, got "
                f"{revision[:12]}, that of this version of midstudy. Check out the version that made the "
                "recipe, or plan again."
            )
        return _wheels_rows(source, split, is_task)
    if source.kind == "declared":
        raise ValueError(f"{source.part}: expected its text, got its name alone. Give it with {source.note}.")
    if source.kind == "files":
        return _file_rows(source, split, is_task, on_read)
    return _hub_rows(source, split, is_task)


def _wheels_rows(source: Source, split: str, is_task: bool) -> Rows:
    rows = builtin.read_part(source.part, split)
    if source.is_conversations:
        numbered = ((f"{source} {split}:{number}", row) for number, row in enumerate(rows, start=1))
        rows = checked_rows(numbered, source, is_task)
    # The train split of a control is empty, as a carved split may be.
    return Rows(rows, is_carved=source.part in builtin.TEST_ONLY and split != "test")


def _file_rows(source: Source, split: str, is_task: bool, on_read: Callable[[float], None]) -> Rows:
    place = Path(source.location)
    if not place.exists():
        raise ChangedTextError(f"{place}: no such folder or file. Restore it, or plan again.")
    require_revision(source, content_digest(place))  # from the digest cache if possible: detects changes early
    carved = carved_in(place, is_task)
    paths = split_files(place, "train" if split in carved else split)
    if not paths:
        raise ChangedTextError(f"{place}: its files have just changed. Plan again.")
    files = FileSequence(paths, fields=source.fields, on_read=on_read)

    def rest() -> Iterator[None]:
        yield from files.rest()
        require_revision(source, content_digest(place, read=files.digests))

    rows = checked_rows(files.rows(), source, is_task)
    return Rows(_of_split(rows, split, carved, is_task), is_carved=split in carved, rest=rest)


def require_revision(source: Source, digest: str) -> None:
    """Reject files whose content digest is not the revision of their source.

    Raises:
        ChangedTextError: they changed since the plan.
    """
    if digest != source.revision:
        raise ChangedTextError(
            f"{source.location}: its files changed since the plan: expected sha256 {source.revision[:12]}, got "
            f"{digest[:12]}. Restore the files, or plan again with the changed text."
        )


def _hub_rows(source: Source, split: str, is_task: bool) -> Rows:
    where = f"hub:{source.part}"
    present = hub.present_splits(source.part, source.config, source.revision)
    carved = carved_splits(present, is_task=is_task, where=where)
    read = "train" if split in carved else split
    rows = hub.load(source.part, source.config, source.revision, read)
    numbered = ((f"{where} {read}:{number}", row) for number, row in enumerate(rows, start=1))
    checked = checked_rows(numbered, source, is_task)
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


def checked_rows(rows: Iterator[tuple[str, dict[str, Any]]], source: Source, is_task: bool) -> Iterator[dict[str, Any]]:
    """Yield the rows, each given with its place, under the names of a layout if the source declares its fields."""
    for where, row in rows:
        named = with_fields(row, source.fields, where) if source.fields else row
        _require_fields(named, where, is_task)
        yield named


def _require_fields(row: dict[str, Any], where: str, is_task: bool) -> None:
    if is_task:
        as_example(row, where)
    else:
        as_text(row, where)


def _unplanned_rows(source: Source, split: str, is_task: bool) -> Iterator[dict[str, Any]]:
    """Yield the rows of a split's files as a plan looks at them: not compared with the revision."""
    files = FileSequence(split_files(Path(source.location), split), fields=source.fields)
    return checked_rows(files.rows(), source, is_task)


def _require_first_row(source: Source, split: str, is_task: bool) -> None:
    if next(_unplanned_rows(source, split, is_task), None) is None:
        first, *others = split_files(Path(source.location), split)
        got = f"no rows in it and {len(others)} files after it" if others else "no rows"
        raise ValueError(f"{first}: expected one JSON object per line, or rows of Parquet, got {got}.")


def carved_in(folder: Path, is_task: bool) -> tuple[str, ...]:
    """Return the splits that are carved from the train files of a folder, or of a single file."""
    present = [split for split in SPLIT_NAMES if split_files(folder, split)]
    needed = ("train", "test") if is_task else ("train",)
    missing = "; ".join(file_names(split) for split in needed if split not in present)
    unread = (unread_files(folder) or other_files(folder)) if missing and folder.is_dir() else ""
    hint = f"Expected {missing}." + (f" Not read: {unread}." if unread else "")
    return carved_splits(present, is_task=is_task, where=str(folder), hint=hint)


def _rows_by_split(source: Source, carved: tuple[str, ...], is_task: bool) -> tuple[dict[str, int], int | None]:
    """Return the number of rows of the train files that go to each split, and the number of rows.

    Stops early, with `None` as the number of rows, when train has a row and each carved split has several.
    """
    counts = dict.fromkeys(("train", *carved), 0)
    num_rows = 0
    for row in _unplanned_rows(source, "train", is_task):
        num_rows += 1
        counts[split_of_row(row, carved=carved, is_task=is_task)] += 1
        if counts["train"] and all(counts[split] >= _FEW_ROWS for split in carved):
            return counts, None
    return counts, num_rows


def _carved_note(source: Source, carved: tuple[str, ...], is_task: bool) -> str:
    if not carved:
        return ""
    counts, num_rows = _rows_by_split(source, carved, is_task)
    place = Path(source.location)
    _require_carved_rows(place, "train", counts, num_rows, is_task=is_task)
    note = f"{' and '.join(carved)} carved from train by hash ({_percent(is_task)} % each)"
    if num_rows is None:
        return note
    numbers = " and ".join(f"{counts[split]} to {split}" for split in carved)
    return f"{note}: of the {num_rows} rows of {_train_name(place)}, {numbers}"


def _train_name(place: Path) -> str:
    first, *others = split_files(place, "train")
    return f"{len(others) + 1} train files" if others else first.name


def _require_carved_rows(place: Path, split: str, counts: dict[str, int], num_rows: int | None, *, is_task: bool) -> None:
    if counts[split]:
        return
    raise ValueError(
        f"{place}: the {split} split is empty: of the {num_rows} rows of {_train_name(place)}, "
        f"{', '.join(f'{number} go to {name}' for name, number in counts.items())}, because "
        f"{' and '.join(name for name in counts if name != 'train')} are carved from train by hash ({_percent(is_task)} % "
        f"each). Supply {_to_supply(split, counts)}, or more rows."
    )


def _to_supply(split: str, counts: dict[str, int]) -> str:
    wanted = [split] if split != "train" else [name for name in counts if name != "train"]
    return " and ".join(f"{SPLIT_NAMES[name][0]}.jsonl" for name in wanted)


def _percent(is_task: bool) -> int:
    return round(100 * (TASK_SHARE if is_task else CORPUS_SHARE))


def _unusual_name(place: Path) -> str:
    paths = split_files(place, "dev")
    if not paths:
        return ""
    top = paths[0].relative_to(place).parts[0]
    return "" if top.startswith(SPLIT_NAMES["dev"][:2]) else f"dev is {top}"


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
