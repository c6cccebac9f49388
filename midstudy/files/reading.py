"""Read JSON files that may be damaged or edited: return what they hold, or raise `StoreError`."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from midstudy.files.errors import StoreError
from midstudy.files.sealed import is_whole

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

_T = TypeVar("_T")


def read_object(path: Path, *, remedy: str, needs: Collection[str] = ()) -> dict[str, Any]:
    """Return the JSON object in the file at `path`.

    Args:
        remedy: what to do if the file is damaged, in whole sentences.
        needs: fields that the object must have.

    Raises:
        FileNotFoundError: the file does not exist.
        StoreError: it cannot be read, is not a JSON object, or lacks a field.
    """
    text = _read_bytes(path, remedy=remedy)
    try:
        value = json.loads(text)
    except RecursionError:
        raise StoreError(f"{path}: damaged (nested too deeply). {remedy}") from None
    except ValueError as error:
        raise StoreError(f"{path}: damaged ({error}). {remedy}") from None
    if not isinstance(value, dict) or not value.keys() >= {*needs}:
        raise StoreError(f"{path}: damaged (expected an object with {', '.join(needs) or 'fields'}). {remedy}")
    return value


def read_as(path: Path, kind: type[_T], *, remedy: str, is_sealed: bool = False) -> _T:
    """Return the dataclass `kind` from the JSON file at `path`. Fields that it does not have are ignored.

    Args:
        remedy: what to do if the file is damaged, in whole sentences.
        is_sealed: the file was written by `sealed`.

    Raises:
        FileNotFoundError: the file does not exist.
        StoreError: it cannot be read, was changed after it was sealed, or a field is missing or of another type; the message
            names its dotted path.
    """
    from pydantic import ValidationError

    text = _read_bytes(path, remedy=remedy)
    if is_sealed and not is_whole(text):
        raise StoreError(f"{path}: damaged (it was changed after it was written). {remedy}")
    try:
        found: _T = _decoder(cast(Any, kind)).validate_json(text, strict=True)
        return found
    except ValidationError as error:
        raise StoreError(f"{path}: damaged ({_first(error)}). {remedy}") from None


def _read_bytes(path: Path, *, remedy: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror or error}). Fix the permissions, or: {remedy}") from error


@cache
def _decoder(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _first(error: ValidationError) -> str:
    """Return the first problem with its dotted path."""
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}"
