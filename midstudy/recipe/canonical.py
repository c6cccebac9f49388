"""Canonical JSON of recipes and the ids made from it: the same text on every machine and Python version.

Rules. A dataclass becomes an object of its fields plus `"is": ClassName`. Fields marked `label` in their metadata are for
display and are left out. Fields that equal their frozen `omit_at` value are left out too, so that adding a field does not
change existing ids. A field that refers to a state holds the state's id. Whole floats are written as integers, so `1` and
`1.0` agree. Fractions are written `"1/5"`. Callables, NaN, infinities, sets and unknown types have no stable form and are
rejected.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from midstudy.recipe.errors import RecipeError
from midstudy.recipe.plain import plain

ID_LENGTH = 16
"""Hex digits of an id: 64 bits, so a million stages collide with probability below 3e-8."""


def label_field(**kwargs: Any) -> Any:
    """Return a dataclass field that is for display only and does not affect any id."""
    return dataclasses.field(metadata={"label": True}, **kwargs)


def planning_field() -> Any:
    """Return a dataclass field that exists only while a study is planned: it is in no id, no comparison and no file."""
    return dataclasses.field(default=None, compare=False, repr=False, metadata={"label": True, "planning": True})


def added_field(*, omit_at: Any) -> Any:
    """Return a dataclass field added after ids existed: it is left out of the canonical form when it equals `omit_at`.

    `omit_at` must never change.
    """
    return dataclasses.field(default=omit_at, metadata={"omit_at": omit_at})


def state_field() -> Any:
    """Return a dataclass field for a state or its id: the canonical and the expanded form hold the id alone."""
    return dataclasses.field(metadata={"state": True})


def canonical(value: Any, path: str = "recipe") -> Any:
    """Return the canonical form of a recipe as JSON-serialisable data.

    Raises:
        RecipeError: the value, or something inside it, has no stable form; the message names its path.
    """
    value = plain(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RecipeError(path, expected="a finite number", got=value)
        return int(value) if value.is_integer() else value
    if isinstance(value, Fraction):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        form: dict[str, Any] = {"is": type(value).__name__}
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            if field.metadata.get("label") or ("omit_at" in field.metadata and item == field.metadata["omit_at"]):
                continue
            form[field.name] = canonical(_referred(field, item), f"{path}.{field.name}")
        return form
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise RecipeError(path, expected="text keys", got=key)
        return {key: canonical(value[key], f"{path}.{key}") for key in sorted(value)}
    if isinstance(value, tuple | list):
        return [canonical(item, f"{path}[{index}]") for index, item in enumerate(value)]
    raise RecipeError(
        path,
        expected="a number, text, True, False, None, a list, a mapping with text keys or a recipe dataclass",
        got=f"{type(value).__name__} {value!r:.60}",
        fix="Write the value as plain data: functions, sets and other objects have no stable form.",
    )


def canonical_text(value: Any) -> str:
    """Return the canonical JSON text: sorted keys, no spaces, ASCII."""
    return json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def identify(value: Any) -> str:
    """Return the id of a recipe: the first 16 hex digits of the SHA-256 of its canonical text."""
    return hashlib.sha256(canonical_text(value).encode("ascii")).hexdigest()[:ID_LENGTH]


def other_versions(value: Any) -> Iterator[tuple[str, int, int]]:
    """Yield the component versions (`versions.py`) in which a recipe differs from this midstudy.

    Each item is ("Class.field", the recipe's version, this midstudy's version).
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            if field.name.endswith("version") and isinstance(field.default, int):
                if item != field.default:
                    yield f"{type(value).__name__}.{field.name}", item, field.default
            else:
                yield from other_versions(item)
    elif isinstance(value, Mapping):
        yield from other_versions(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from other_versions(item)


def expanded(value: Any) -> Any:
    """Return the whole recipe as plain JSON, including labels and omitted fields. Records store it and jobs read it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = (field for field in dataclasses.fields(value) if not field.metadata.get("planning"))
        fields = {field.name: expanded(_referred(field, getattr(value, field.name))) for field in kept}
        return {"is": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {key: expanded(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [expanded(item) for item in value]
    return canonical(value)


def _referred(field: dataclasses.Field[Any], item: Any) -> Any:
    """Return the item of a field as its forms hold it: the id in place of a state that the field only refers to."""
    return item.id if field.metadata.get("state") and not isinstance(item, str) else item
