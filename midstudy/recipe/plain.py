"""Convert NumPy numbers to Python numbers: grids often use `numpy.arange`, and ids must not depend on the number type."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from numbers import Integral, Real
from typing import Any


def plain(value: Any) -> Any:
    """Return a number of another library as a Python int, float or bool; return any other value unchanged.

    A low-precision float becomes the float with the same shortest decimal form: `numpy.float32(0.1)` becomes 0.1.
    """
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    if type(value) in (int, float, bool, str, Fraction) or not isinstance(value, Real) or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    return value if isinstance(value, Fraction) else float(str(value))


def hold_plain_numbers(recipe: Any) -> None:
    """Replace the numbers in a frozen dataclass by Python numbers; call this first in `__post_init__`."""
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        new = plain(value)
        if new is not value:
            object.__setattr__(recipe, field.name, new)
