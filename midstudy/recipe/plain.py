"""Python's own numbers in place of NumPy's: a grid is often made by `numpy.arange`, and an id must not depend on that."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from numbers import Integral, Real
from typing import Any


def plain(value: Any) -> Any:
    """`value` as Python's own whole number, float or bool, where it is one of another library; anything else as it is.

    A float of fewer bits becomes the number that its shortest digits say: 0.1 from `numpy.float32(0.1)`.
    """
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    if type(value) in (int, float, bool, str, Fraction) or not isinstance(value, Real) or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    return value if isinstance(value, Fraction) else float(str(value))


def hold_plain_numbers(recipe: Any) -> None:
    """Replace the numbers that a frozen dataclass was given by plain ones: the first thing that its `__post_init__` does."""
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        new = plain(value)
        if new is not value:
            object.__setattr__(recipe, field.name, new)
