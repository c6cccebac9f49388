"""The record of a finished stage: published with the stage's files and never changed."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midstudy.files.errors import DamagedFileError, StoreError
from midstudy.files.reading import parse_object, read_bytes, require_fields
from midstudy.files.sealed import seal_of, sealed

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Record:
    """One finished stage.

    `canonical` is the hashed form of the recipe and `recipe` its expanded form. `files` maps the path of each published
    file, relative to the published folder, to its size and SHA-256. `timing` holds started_at and finished_at (Unix
    seconds), wall_s and cpu_s.
    """

    schema: int
    id: str
    kind: str
    label: str
    recipe: Any
    canonical: Any
    parents: tuple[str, ...]
    metrics: dict[str, Any]
    files: dict[str, dict[str, Any]]
    environment: dict[str, Any]
    timing: dict[str, float]
    attempt: str

    def as_bytes(self) -> bytes:
        """Return the text of record.json, which ends with its own digest."""
        return sealed(dataclasses.asdict(self))


_NUMBER = (int, float)
_FIELDS = {
    "schema": int,
    "id": str,
    "kind": str,
    "label": str,
    "parents": list,
    "metrics": dict,
    "files": dict,
    "environment": dict,
    "timing": dict,
    "attempt": str,
}
_TIMING = dict.fromkeys(("started_at", "finished_at", "wall_s", "cpu_s"), _NUMBER)


def read_record(path: Path, stage_id: str, *, check_files: bool = True) -> Record:
    """Return the record at `path`, checked against `stage_id` and, if `check_files`, against the files it lists.

    Raises:
        StoreError: the record was damaged or edited, has another id or schema, or lists files outside its folder.
        DamagedFileError: a file it lists is missing or has another size.
    """
    remedy = f"Remove {path.parent} to make the stage again."
    text = read_bytes(path, remedy=remedy)
    fields = parse_object(path, text, remedy=remedy)
    known = {field.name for field in dataclasses.fields(Record)}
    if wrong := (fields.keys() - {"sha256"}) ^ known:
        raise StoreError(f"{path}: missing or unknown fields: {', '.join(sorted(wrong))}. {remedy}")
    require_fields(path, fields, _FIELDS, remedy=remedy)
    if fields["schema"] != SCHEMA:
        raise StoreError(f"{path}: expected schema {SCHEMA}, got {fields['schema']}. Use the midstudy that wrote it.")
    if fields["id"] != stage_id:
        raise StoreError(f"{path}: expected the record of stage {stage_id}, got that of {fields['id']}. {remedy}")
    if fields.pop("sha256", None) is None or seal_of(text) != "whole":
        raise StoreError(f"{path}: differs from what was published, so it was edited or damaged. {remedy}")
    require_fields(path, fields["timing"], _TIMING, where="timing", remedy=remedy)
    for name, facts in fields["files"].items():
        require_fields(path, facts, {"bytes": int}, where=f"files.{name}", remedy=remedy)
    if check_files:
        _check_files(path, {name: facts["bytes"] for name, facts in fields["files"].items()}, remedy)
    fields["parents"] = tuple(fields["parents"])
    return Record(**fields)


def _check_files(record: Path, sizes: Mapping[str, int], remedy: str) -> None:
    """Check that the files a record lists are below its folder and have their recorded sizes, in bytes."""
    # Only sizes: hashing every file would take minutes. Checkpoints verify their own digests.
    folder, stages = str(record.parent), str(record.parents[2])
    folders = {folder, os.path.dirname(folder)}
    for name in sizes:
        if any(part in ("", ".", "..") for part in name.split("/")) or "\0" in name:
            raise StoreError(f"{record}: files: expected paths inside {folder}, got {name!r}. {remedy}")
        folders.update(f"{folder}/{name[:end]}" for end, character in enumerate(name) if character == "/")
    for path in folders:
        if os.path.islink(path):
            _require_inside(stages, path, remedy)
    for name, num_bytes in sizes.items():
        file = f"{folder}/{name}"
        try:
            facts = os.lstat(file)
            if stat.S_ISLNK(facts.st_mode):
                _require_inside(stages, file, remedy)
                facts = os.stat(file)
            got = f"{facts.st_size} bytes"
        except (FileNotFoundError, NotADirectoryError):
            got = "no file"
        if got != f"{num_bytes} bytes":
            raise DamagedFileError(f"{file}: expected {num_bytes} bytes, as {record} lists, got {got}. {remedy}")


def _require_inside(stages: str, link: str, remedy: str) -> None:
    """Raise `StoreError` if a symbolic link leads out of the folder of all stages: its target could change at any time."""
    if not os.path.realpath(link).startswith(f"{os.path.realpath(stages)}{os.sep}"):
        raise StoreError(f"{link}: a symbolic link to {os.readlink(link)}, which is outside {stages}. {remedy}")


def digest_file(path: Path) -> dict[str, Any]:
    """Return the size in bytes and the SHA-256 of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
