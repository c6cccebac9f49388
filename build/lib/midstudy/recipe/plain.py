"""Convert NumPy numbers to Python's: grids are often made with `numpy.arange`, and an id must not depend on the type."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from numbers import Integral, Real
from typing import Any


def plain(value: Any) -> Any:
    """`value` as a Python int, float or bool if it is another library's; anything else unchanged.

    A low-precision float becomes the float with the same shortest decimal form: `numpy.float32(0.1)` gives 0.1.
    """
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    if type(value) in (int, float, bool, str, Fraction) or not isinstance(value, Real) or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    return value if isinstance(value, Fraction) else float(str(value))


def hold_plain_numbers(recipe: Any) -> None:
    """Replace the numbers in a frozen dataclass by plain ones; call first in `__post_init__`."""
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        new = plain(value)
        if new is not value:
            object.__setattr__(recipe, field.name, new)
