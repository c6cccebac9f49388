"""A record: what a finished stage leaves, published last and never changed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midstudy.store.errors import StoreError

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Record:
    """One finished stage.

    `canonical` is the hashed form of the recipe and `recipe` its expanded one. `files` maps the path of each published file,
    below the published folder, to its size and SHA-256. `timing` holds started_at and finished_at (Unix seconds), wall_s
    and cpu_s.
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

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def read_record(path: Path, stage_id: str) -> Record:
    """The record at `path`, checked to be that of `stage_id` and to lie beside the files it lists.

    Raises:
        StoreError: the file was damaged or edited: no JSON, another id, unknown or missing fields, another schema; or a
            file it lists is missing or of another size.
    """
    remedy = f"Remove {path.parent} to make the stage again."
    try:
        fields = json.loads(path.read_text("utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: not a record ({error}). {remedy}") from error
    known = {field.name for field in dataclasses.fields(Record)}
    if not isinstance(fields, dict) or fields.keys() != known:
        odd = sorted(fields.keys() ^ known) if isinstance(fields, dict) else [type(fields).__name__]
        raise StoreError(f"{path}: missing or unknown fields: {', '.join(odd)}. {remedy}")
    if fields["schema"] != SCHEMA:
        raise StoreError(f"{path}: record of schema {fields['schema']}; this midstudy reads {SCHEMA}.")
    if fields["id"] != stage_id:
        raise StoreError(f"{path}: record of stage {fields['id']}, found under {stage_id}. {remedy}")
    for name, facts in fields["files"].items():
        _check_size(path, path.parent / name, facts["bytes"], remedy)
    fields["parents"] = tuple(fields["parents"])
    return Record(**fields)


def _check_size(record: Path, file: Path, num_bytes: int, remedy: str) -> None:
    # Sizes only: hashing every file again would cost a reading command minutes. Checkpoints check their own digests.
    try:
        found = f"{file.stat().st_size} bytes"
    except FileNotFoundError:
        found = "no file"
    if found != f"{num_bytes} bytes":
        raise StoreError(f"{file}: found {found}, where {record} lists {num_bytes} bytes. {remedy}")


def digest_file(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
