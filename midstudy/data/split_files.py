"""Which files hold a split: one file, numbered shards beside each other, or a folder of files.

A split `train` is `train.jsonl`; or `train-00000-of-00002.jsonl`, `train-00001-of-00002.jsonl` (also `train_1.jsonl`); or
every file of `train/` and its folders. Shards are read in the order of their numbers, so `train_10` follows `train_9`.
Instead of a folder, a source may be a single file, whose rows are its train split.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from midstudy.data.splits import SPLIT_NAMES

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")

_SHARD = re.compile(r"[-_.]\d+(-of-\d+)?(-[0-9a-f]{8,40})?")
"""What may stand between a split's name and the ending: a number, how many there are, and a hash as the Hub writes it."""

_COUNTED = re.compile(r"(.*?)(\d+)-of-(\d+)(?!\d)")

# File names that start with a split's name, with any extension; and file names with the extension of a data file.
_LIKE_A_SPLIT = re.compile(r"(train|training|valid|validation|val|dev|devel|eval|evaluation|test|testing|tests)([^a-z].*)?")
_LIKE_ROWS = re.compile(r".*\.(jsonl|ndjson|jsonlines|parquet|arrow|csv|tsv)(\.[a-z0-9]+)?")
_REMEDIES = {
    ".zst": "zstd -d",
    ".xz": "xz -d",
    ".bz2": "bzip2 -d",
    ".zip": "unzip",
    ".lz4": "lz4 -d",
}
_NOT_DATA = (".py", ".sh", ".md", ".log", ".lock")
_MOST_NAMED = 5


def ending_of(path: Path) -> str | None:
    """Return which of `ENDINGS` a file name has; `None` if it has none of them."""
    return next((ending for ending in ENDINGS if path.name.endswith(ending) and path.name != ending), None)


def split_files(place: Path, split: str) -> tuple[Path, ...]:
    """Return the files of a split in the order in which they are read; empty if the source does not have the split.

    Args:
        place: the folder of a data set, or its only file.
        split: `train`, `dev` or `test`.

    Raises:
        ValueError: there are several candidates for the split, or a shard of the number that names state is missing.
    """
    if place.is_file():
        return (place,) if split == "train" else ()
    found = _candidates(place, split)
    if len(found) > 1:
        raise ValueError(
            f"{place}: expected one file for the {split} split, got {' and '.join(map(_name, found))}. Move the wrong one "
            "elsewhere."
        )
    paths = tuple(sorted(found[0], key=lambda path: _by_number(path.relative_to(place)))) if found else ()
    if len(paths) > 1:
        _require_each_once(place, split, paths)
    return paths


def _candidates(folder: Path, split: str) -> list[list[Path]]:
    """Return the lists of files that could each be the split: single files, shards under one name, files of a folder."""
    found: list[list[Path]] = []
    files = [path for path in folder.iterdir() if ending_of(path) and path.is_file()] if folder.is_dir() else []
    for name in SPLIT_NAMES[split]:
        found += [[folder / (name + ending)] for ending in ENDINGS if (folder / (name + ending)).is_file()]
        if shards := [path for path in files if _is_shard(path, name)]:
            found.append(shards)
        if inside := _files_below(folder / name):
            found.append(inside)
    return found


def _is_shard(path: Path, name: str) -> bool:
    ending = ending_of(path)
    between = path.name.removesuffix(ending or "").removeprefix(name)
    return path.name.startswith(name) and _SHARD.fullmatch(between) is not None


def _files_below(folder: Path) -> list[Path]:
    """Return the data files in a folder and its folders, except hidden ones."""
    if not folder.is_dir():
        return []
    paths = (path for path in folder.rglob("*") if ending_of(path) and path.is_file())
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _by_number(path: Path) -> tuple[list[str | int], str]:
    """Return the key that sorts names as people number them."""
    parts = re.split(r"(\d+)", path.as_posix())  # text and digits in turn
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], path.as_posix()


def _name(paths: list[Path]) -> str:
    first = min(paths, key=lambda path: _by_number(Path(path.name)))
    return first.name if len(paths) == 1 else f"{len(paths)} files such as {first.parent.name}/{first.name}"


def _require_each_once(place: Path, split: str, paths: tuple[Path, ...]) -> None:
    """Reject a shard in two formats, which would be read twice, and a missing shard of a stated number."""
    by_stem: dict[str, Path] = {}
    numbers: dict[tuple[Path, str, int], set[int]] = {}
    for path in paths:
        stem = path.as_posix().removesuffix(ending_of(path) or "")
        if other := by_stem.get(stem):
            raise ValueError(
                f"{place}: expected each shard of the {split} split once, got {other.name} and {path.name}. Move the wrong "
                "one elsewhere."
            )
        by_stem[stem] = path
        if counted := _COUNTED.match(path.name):
            numbers.setdefault((path.parent, counted[1], int(counted[3])), set()).add(int(counted[2]))
    for (folder, name, number), present in numbers.items():
        if len(present) != number:
            first = min(present) if min(present) == 0 else 1
            missing = [str(one) for one in range(first, first + number) if one not in present]
            raise ValueError(
                f"{folder}: expected {number} shards {name}…-of-{number:05d} of the {split} split, got {len(present)}; "
                f"missing: {_some(missing)}. Fetch them."
            )


def unread_files(folder: Path) -> str:
    """Name the files of a folder that look like data but are not read, each with a fix; empty if there are none.

    A file looks like data if its name starts with a split's name or has a data file's extension.
    """
    if folder.is_file():
        return ""
    return _some([
        _unread(path)
        for path in _not_read(folder)
        if path.suffix not in _NOT_DATA
        and (_LIKE_A_SPLIT.fullmatch(path.name.lower()) or _LIKE_ROWS.fullmatch(path.name.lower()))
    ])  # fmt: skip


def other_files(folder: Path) -> str:
    """Name everything in a folder that is not part of a split; empty if there is nothing."""
    return _some([_unread(path) for path in _not_read(folder)])


def _not_read(folder: Path) -> list[Path]:
    read = {path for split in SPLIT_NAMES for paths in _candidates(folder, split) for path in paths}
    read |= {parent for path in read for parent in path.parents}
    return [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and path not in read]


def _some(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:_MOST_NAMED]) + (f" and {len(every) - _MOST_NAMED} more" if len(every) > _MOST_NAMED else "")


def _unread(path: Path) -> str:
    for ending, command in _REMEDIES.items():
        if path.name.lower().endswith(ending):
            return f"{path.name} (`{command}` it)"
    if path.is_symlink() and not path.exists():
        return f"{path.name} (a broken link)"
    return f"{path.name}/ (a folder)" if path.is_dir() else path.name


def file_names(split: str) -> str:
    """Return the accepted names of a split's files, for messages."""
    name = SPLIT_NAMES[split][0]
    also = f" (or {', '.join(SPLIT_NAMES[split][1:])})" if len(SPLIT_NAMES[split]) > 1 else ""
    return (
        f"{name}.jsonl{also}, with {', '.join(ENDINGS[1:-1])} or {ENDINGS[-1]} as well, as one file, as shards such as "
        f"{name}-00000.jsonl, or as a folder {name}/"
    )
