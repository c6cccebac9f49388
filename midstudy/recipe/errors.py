"""`RecipeError`, raised by every invalid recipe, and the checks that raise it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import UnionType


class RecipeError(ValueError):
    """A field of a recipe or an experiment has an invalid value.

    The message reads "path: expected Y, got X. fix".

    Args:
        path: dotted path of the field, from the outermost object known where the error is raised.
        expected: what the field accepts; it must read well after the word "expected".
        got: the invalid value; text is shown as it is, other values by their `repr`.
        fix: what to do next, in one sentence; empty if `expected` is enough.
    """

    def __init__(self, path: str, *, expected: str, got: object, fix: str = "") -> None:
        self.path, self.expected, self.got, self.fix = path, expected, got, fix
        super().__init__(path, expected, got, fix)

    def __str__(self) -> str:
        shown = self.got if isinstance(self.got, str) else repr(self.got)
        text = f"{self.path}: expected {self.expected}, got {shown}."
        return f"{text} {self.fix}".rstrip()


@contextmanager
def inside(outer: str) -> Iterator[None]:
    """Prefix the path of any `RecipeError` raised inside, so that the message names the field of the experiment."""
    try:
        yield
    except RecipeError as error:
        raise RecipeError(f"{outer}.{error.path}", expected=error.expected, got=error.got, fix=error.fix) from None


def require_positive(path: str, value: object, *, unit: str) -> None:
    """Raise `RecipeError` unless `value` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RecipeError(path, expected=f"a whole number of {unit}, at least 1", got=value)


def require_whole(path: str, value: object, *, what: str) -> None:
    """Raise `RecipeError` unless `value` is a whole number of at least 0; `what` names it in the message."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise RecipeError(path, expected=f"{what}, a whole number of at least 0", got=value)


def require_number(
    path: str, value: object, low: float, high: float = math.inf, *, what: str = "a number", fix: str = ""
) -> None:
    """Raise `RecipeError` unless `value` is a number in [low, high); NaN is not.

    Args:
        what: names the number in the message.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < high:
        expected = f"{what} of at least {low:g}" if high == math.inf else f"{what} in [{low:g}, {high:g})"
        raise RecipeError(path, expected=expected, got=value, fix=fix)


def require_kind(path: str, value: object, kind: type | UnionType, *, expected: str) -> None:
    """Raise `RecipeError` unless `value` is an instance of `kind`; the message shows only the value's type."""
    if not isinstance(value, kind):
        raise RecipeError(path, expected=expected, got=f"a value of type {type(value).__name__}")


def require_text(path: str, value: object) -> None:
    """Raise `RecipeError` unless `value` is text that UTF-8 can encode: no lone surrogates."""
    require_kind(path, value, str, expected="text")
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise RecipeError(path, expected="text that UTF-8 can encode", got=repr(value[:100]))


def require_flag(path: str, value: object) -> None:
    """Raise `RecipeError` unless `value` is a bool."""
    if not isinstance(value, bool):
        raise RecipeError(path, expected="True or False", got=value)


MAX_NAME_LENGTH = 100
"""Most characters of a corpus, task or mix name. Names become part of one-line labels and of file names."""


def require_name(path: str, value: object) -> None:
    """Raise `RecipeError` unless `value` is a valid name: printable characters of any language, not too many."""
    expected = f"1 to {MAX_NAME_LENGTH} printable characters without a space at either end"
    if not isinstance(value, str) or not value.isprintable() or value != value.strip() or not value:
        raise RecipeError(path, expected=expected, got=repr(value))
    if len(value) > MAX_NAME_LENGTH:
        raise RecipeError(path, expected=expected, got=f"{value[:MAX_NAME_LENGTH]!r}… of {len(value)} characters")


def require_choice(path: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise `RecipeError` unless `value` is one of `choices`."""
    if value not in choices:
        raise RecipeError(path, expected=f"one of {', '.join(choices)}", got=value)
