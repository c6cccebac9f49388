"""Read JSON files that may be damaged or edited: return an object with the required fields, or raise `StoreError`."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from midstudy.files.errors import StoreError

MOST_BYTES = 1 << 28
"""Largest file that is read. Files are far smaller: the manifest of ten thousand stages has 20 MB."""

Kind = type | tuple[type, ...]


def read_object(path: Path, *, remedy: str, fields: Mapping[str, Kind] | None = None) -> dict[str, Any]:
    """Return the JSON object in the file at `path`.

    Args:
        remedy: what to do if the file is damaged, in whole sentences.
        fields: required fields with their types; other fields are allowed.

    Raises:
        FileNotFoundError: the file does not exist.
        StoreError: it cannot be read, is not a regular file, is too large, is not a JSON object, or lacks a field.
    """
    return parse_object(path, read_bytes(path, remedy=remedy), remedy=remedy, fields=fields)


def read_bytes(path: Path, *, remedy: str) -> bytes:
    """Return the bytes of a file, for `parse_object`. Raises the same errors as `read_object`."""
    try:
        # Non-blocking, since opening a named pipe would otherwise wait for a writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise StoreError(f"{path}: damaged (expected a file, got a device or pipe). {remedy}")
            if facts.st_size > MOST_BYTES:
                raise StoreError(f"{path}: damaged (expected at most {MOST_BYTES:,} bytes, got {facts.st_size:,}). {remedy}")
            return file.read()
    except FileNotFoundError:
        raise
    except IsADirectoryError as error:
        raise StoreError(f"{path}: damaged (expected a file, got a folder). {remedy}") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror or error}). Fix the permissions, or: {remedy}") from error


def parse_object(path: Path, text: bytes, *, remedy: str, fields: Mapping[str, Kind] | None = None) -> dict[str, Any]:
    """Return the JSON object in `text`, which was read from `path`. Raises the same errors as `read_object`."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise StoreError(f"{path}: damaged (nested too deeply). {remedy}") from error
    except ValueError as error:
        raise StoreError(f"{path}: damaged ({error}). {remedy}") from error
    require_fields(path, value, fields or {}, remedy=remedy)
    return value


def require_fields(path: Path, value: Any, fields: Mapping[str, Kind], *, remedy: str, where: str = "") -> None:
    """Check that `value`, from the file at `path`, is an object with `fields` of these types.

    Args:
        where: dotted path of `value` in the file.

    Raises:
        StoreError: it is not an object, or a field is missing or has another type; the message names its dotted path.
    """
    if not isinstance(value, dict):
        raise StoreError(f"{path}: damaged ({where or 'its text'}: expected an object, got {_kind(value)}). {remedy}")
    for name, kind in fields.items():
        kinds = kind if isinstance(kind, tuple) else (kind,)
        # In Python, bool is a subclass of int.
        if name not in value or not isinstance(value[name], kind) or (isinstance(value[name], bool) and bool not in kinds):
            got = _kind(value[name]) if name in value else "nothing"
            expected = " or ".join(_JSON_NAMES[kind] for kind in kinds if kind is not int or float not in kinds)
            dotted = f"{where}.{name}" if where else name
            raise StoreError(f"{path}: damaged ({dotted}: expected {expected}, got {got}). {remedy}")


_JSON_NAMES = {
    dict: "an object",
    list: "an array",
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def _kind(value: Any) -> str:
    return _JSON_NAMES.get(type(value), type(value).__name__)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not valid JSON")
