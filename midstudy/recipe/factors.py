"""Factors: labels of a phase or a start that say what it fixes, such as `mix="code"`; never hashed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from midstudy.recipe.errors import MAX_NAME_LENGTH, RecipeError, require_name
from midstudy.recipe.plain import plain

Value = str | int | float
Factors = tuple[tuple[str, Value], ...]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def factors(**values: Value) -> Factors:
    """Factors of a phase, as `Phase(factors=factors(mix="code", weight=0.2), ...)`.

    Raises:
        RecipeError: a name is not lower case letters, digits and `_`, or a value is not text or a finite number.
    """
    return tuple((name, _checked(name, value)) for name, value in values.items())


def joined(*several: Factors) -> Factors:
    """The union of factors in the order in which they first appear; of two values of one name the last counts."""
    found: dict[str, Value] = {}
    for one in several:
        found |= dict(one)
    return tuple(found.items())


def require_factors(path: str, value: object) -> None:
    """Raise `RecipeError` unless `value` is what `factors(...)` returns."""
    if not isinstance(value, tuple) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        raise RecipeError(path, expected="what factors(name=value, ...) returns", got=repr(value))
    for name, one in value:
        _checked(name, one, path)


def selects(wanted: Mapping[str, Value | tuple[Value, ...]], found: Mapping[str, Value]) -> bool:
    """Whether factors have the wanted values; of a tuple of values, one of them."""
    return all(
        name in found and found[name] in (value if isinstance(value, tuple) else (value,)) for name, value in wanted.items()
    )


def _checked(name: object, value: object, path: str = "factors") -> Value:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RecipeError(path, expected="names of lower case letters, digits and _, a letter first", got=repr(name))
    value = plain(value)
    if isinstance(value, str):
        require_name(f"{path}.{name}", value)
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        allowed = f"text of 1 to {MAX_NAME_LENGTH} characters, or a finite number"
        raise RecipeError(f"{path}.{name}", expected=allowed, got=repr(value))
    return value
