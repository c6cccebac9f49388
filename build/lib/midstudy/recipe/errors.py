"""The one error a wrong recipe raises: which field, what was found, what is allowed, what to do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import UnionType


class RecipeError(ValueError):
    """A field of a recipe or an experiment holds something that cannot be trained.

    Args:
        path: dotted path of the field, from the outermost object that is known where the error is raised.
        found: the offending value, as it should be shown.
        allowed: what the field accepts.
        fix: what to do next, one sentence; empty where `allowed` says it all.
    """

    def __init__(self, path: str, *, found: object, allowed: str, fix: str = "") -> None:
        self.path, self.found, self.allowed, self.fix = path, found, allowed, fix
        super().__init__(path, found, allowed, fix)

    def __str__(self) -> str:
        shown = self.found if isinstance(self.found, str) else repr(self.found)
        text = f"{self.path}: found {shown}; allowed: {self.allowed}."
        return f"{text} {self.fix}".rstrip()


@contextmanager
def inside(outer: str) -> Iterator[None]:
    """Prefix the path of any `RecipeError` raised within, so that the message names the experiment's own field."""
    try:
        yield
    except RecipeError as error:
        raise RecipeError(f"{outer}.{error.path}", found=error.found, allowed=error.allowed, fix=error.fix) from None


def require_positive(path: str, value: object, *, unit: str) -> None:
    """Raise `RecipeError` unless `value` is a whole number of at least one."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RecipeError(path, found=value, allowed=f"a whole number of {unit}, at least 1")


def require_whole(path: str, value: object, *, what: str) -> None:
    """Raise `RecipeError` unless `value` is an integer of at least 0; `what` names it in the message."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise RecipeError(path, found=value, allowed=f"{what}, a whole number of at least 0")


def require_number(
    path: str, value: object, low: float, high: float = math.inf, *, what: str = "a number", fix: str = ""
) -> None:
    """Raise `RecipeError` unless `value` is a number, not NaN, of at least `low` and less than `high`.

    Args:
        what: names the number in the message.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < high:
        allowed = f"{what} of at least {low:g}" if high == math.inf else f"{what} in [{low:g}, {high:g})"
        raise RecipeError(path, found=value, allowed=allowed, fix=fix)


def require_kind(path: str, value: object, kind: type | UnionType, *, allowed: str) -> None:
    """Raise `RecipeError`, which shows the type alone, unless `value` is of `kind`."""
    if not isinstance(value, kind):
        raise RecipeError(path, found=f"a value of type {type(value).__name__}", allowed=allowed)


def require_text(path: str, value: object) -> None:
    """Raise `RecipeError` unless `value` is text that can be written: no half of a surrogate pair, as of odd bytes."""
    require_kind(path, value, str, allowed="text")
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise RecipeError(path, found=repr(value[:100]), allowed="text that UTF-8 can hold")


def require_flag(path: str, value: object) -> None:
    """Raise `RecipeError` unless `value` is true or false."""
    if not isinstance(value, bool):
        raise RecipeError(path, found=value, allowed="true or false")


MAX_NAME_LENGTH = 100
"""Names of corpora, tasks and mixes are joined to labels, which are shown in one line and are part of files' names."""


def require_name(path: str, value: object) -> None:
    """Raise `RecipeError` unless `value` can stand in a line of text: letters of any language, digits, signs, spaces."""
    allowed = f"1 to {MAX_NAME_LENGTH} printable characters, without a space at either end"
    if not isinstance(value, str) or not value.isprintable() or value != value.strip() or not value:
        raise RecipeError(path, found=repr(value), allowed=allowed)
    if len(value) > MAX_NAME_LENGTH:
        raise RecipeError(path, found=f"{value[:MAX_NAME_LENGTH]!r}… of {len(value)} characters", allowed=allowed)


def require_choice(path: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise `RecipeError` unless `value` is one of `choices`."""
    if value not in choices:
        raise RecipeError(path, found=value, allowed=", ".join(choices))
