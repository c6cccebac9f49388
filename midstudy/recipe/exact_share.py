"""Shares as exact fractions of the decimal digits they are written with: 0.12 is 3/25."""

from __future__ import annotations

from fractions import Fraction

from midstudy.recipe.errors import RecipeError
from midstudy.recipe.plain import plain


def exact_share(path: str, value: float | int | str | Fraction) -> Fraction:
    """Return `value` as the exact fraction given by its decimal digits.

    Raises:
        RecipeError: `value` is not a number in [0, 1].
    """
    value = plain(value)
    try:
        share = value if isinstance(value, Fraction) else Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise RecipeError(path, expected="a share in [0, 1]", got=value) from None
    if isinstance(value, bool) or not 0 <= share <= 1:
        raise RecipeError(path, expected="a share in [0, 1]", got=value)
    return share
