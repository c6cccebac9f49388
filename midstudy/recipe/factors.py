"""Factors: labels of a phase or a start, such as `mix="code"`, that state what it fixes in a study. Never hashed."""

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
    """Return factors for a phase or a start, as in `Phase(factors=factors(mix="code", weight=0.2), ...)`.

    Raises:
        RecipeError: a name is not lower-case letters, digits and `_`, or a value is neither text nor a finite number.
    """
    return tuple((name, _checked(name, value)) for name, value in values.items())


def joined(*several: Factors) -> Factors:
    """Return the union of factors in order of first appearance; a later value of a name replaces an earlier one."""
    values: dict[str, Value] = {}
    for group in several:
        values |= dict(group)
    return tuple(values.items())


def require_factors(path: str, value: object) -> None:
    """Raise `RecipeError` unless `value` is what `factors(...)` returns."""
    if not isinstance(value, tuple) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        raise RecipeError(path, expected="the result of factors(name=value, ...)", got=repr(value))
    for name, factor in value:
        _checked(name, factor, path)


def selects(wanted: Mapping[str, Value | tuple[Value, ...]], of: Mapping[str, Value]) -> bool:
    """True if the factors `of` have the wanted values; a tuple of values accepts any of them."""
    return all(
        name in of and of[name] in (value if isinstance(value, tuple) else (value,)) for name, value in wanted.items()
    )


def _checked(name: object, value: object, path: str = "factors") -> Value:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RecipeError(
            path, expected="a name of lower-case letters, digits and _ that starts with a letter", got=repr(name)
        )
    value = plain(value)
    if isinstance(value, str):
        require_name(f"{path}.{name}", value)
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        allowed = f"text of 1 to {MAX_NAME_LENGTH} characters, or a finite number"
        raise RecipeError(f"{path}.{name}", expected=allowed, got=repr(value))
    return value
