"""Reads JSON that anybody may have edited, exchanged or cut: an object with the fields it must have, or one message."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from midstudy.files.errors import StoreError

MOST_BYTES = 1 << 28
"""Far above what is ever written: the manifest of ten thousand stages has 20 MB."""

Kind = type | tuple[type, ...]


def read_object(path: Path, *, remedy: str, fields: Mapping[str, Kind] | None = None) -> dict[str, Any]:
    """The JSON object in the file at `path`.

    Args:
        remedy: what to do where it is damaged, as sentences.
        fields: those it must have, with their types; others may be there.

    Raises:
        FileNotFoundError: there is no file.
        StoreError: it cannot be read, is no file, too large or no JSON object, or lacks a field.
    """
    return parse_object(path, read_bytes(path, remedy=remedy), remedy=remedy, fields=fields)


def read_bytes(path: Path, *, remedy: str) -> bytes:
    """The bytes of a file, for `parse_object`; raises as `read_object`."""
    try:
        # Not blocking: a pipe under a file's name would be waited for.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise StoreError(f"{path}: damaged (found a device or pipe, allowed is a file). {remedy}")
            if facts.st_size > MOST_BYTES:
                raise StoreError(f"{path}: damaged ({facts.st_size:,} bytes; at most {MOST_BYTES:,} are read). {remedy}")
            return file.read()
    except FileNotFoundError:
        raise
    except IsADirectoryError as error:
        raise StoreError(f"{path}: damaged (found a folder, allowed is a file). {remedy}") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror or error}). Mend that, or: {remedy}") from error


def parse_object(path: Path, text: bytes, *, remedy: str, fields: Mapping[str, Kind] | None = None) -> dict[str, Any]:
    """The JSON object in `text`, which was read from `path`; raises as `read_object`."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise StoreError(f"{path}: damaged (nested too deeply to be read). {remedy}") from error
    except ValueError as error:
        raise StoreError(f"{path}: damaged ({error}). {remedy}") from error
    require_fields(path, value, fields or {}, remedy=remedy)
    return value


def require_fields(path: Path, value: Any, fields: Mapping[str, Kind], *, remedy: str, where: str = "") -> None:
    """Check that what a file holds at `where` is an object that has `fields`, of these types.

    Raises:
        StoreError: it is none, or lacks one; the message names its dotted path.
    """
    if not isinstance(value, dict):
        raise StoreError(f"{path}: damaged ({where or 'its text'}: found {_kind(value)}, allowed is an object). {remedy}")
    for name, kind in fields.items():
        kinds = kind if isinstance(kind, tuple) else (kind,)
        # true and false are ints to Python, and no numbers to anybody else
        if name not in value or not isinstance(value[name], kind) or (isinstance(value[name], bool) and bool not in kinds):
            found = _kind(value[name]) if name in value else "nothing"
            allowed = " or ".join(_JSON_NAMES[one] for one in kinds if one is not int or float not in kinds)
            dotted = f"{where}.{name}" if where else name
            raise StoreError(f"{path}: damaged ({dotted}: found {found}, allowed is {allowed}). {remedy}")


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
    raise ValueError(f"{constant} is no JSON")
