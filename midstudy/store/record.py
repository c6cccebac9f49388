"""The record of a finished stage: published with the stage's files and never changed."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midstudy.files.errors import DamagedFileError, StoreError
from midstudy.files.reading import read_as
from midstudy.files.sealed import sealed

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


def read_record(path: Path, stage_id: str, *, check_files: bool = True) -> Record:
    """Return the record at `path`, checked against `stage_id` and, if `check_files`, against the files it lists.

    Raises:
        StoreError: the record was damaged or edited, or is that of another stage.
        DamagedFileError: a file it lists is missing or has another size.
    """
    remedy = f"Remove {path.parent} to make the stage again."
    record = read_as(path, Record, remedy=remedy, is_sealed=True)
    if record.id != stage_id:
        raise StoreError(f"{path}: expected the record of stage {stage_id}, got that of {record.id}. {remedy}")
    # Only sizes: hashing every file would take minutes. Checkpoints verify their own digests.
    for name, facts in record.files.items() if check_files else ():
        file = f"{path.parent}/{name}"
        try:
            got = f"{os.stat(file).st_size} bytes"
        except (FileNotFoundError, NotADirectoryError):
            got = "no file"
        if got != f"{facts['bytes']} bytes":
            raise DamagedFileError(f"{file}: expected {facts['bytes']} bytes, as {path} lists, got {got}. {remedy}")
    return record


def digest_file(path: Path) -> dict[str, Any]:
    """Return the size in bytes and the SHA-256 of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
