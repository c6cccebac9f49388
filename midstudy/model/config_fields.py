"""Read the fields of a Hugging Face `config.json` strictly: a missing or strange value is an error that names its field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from midstudy.recipe.errors import RecipeError


def unsupported(name: str, got: object, expected: str) -> RecipeError:
    return RecipeError(
        f"config.{name}",
        expected=expected,
        got=got,
        fix="The architectures of Pythia (gpt_neox), Llama, Qwen 2 and Qwen 3 are supported, as released.",
    )


def table(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a table of the configuration; empty if it is missing or null."""
    value = config.get(name) or {}
    if not isinstance(value, Mapping):
        raise unsupported(name, value, "a table")
    return value


def whole(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise unsupported(name, value, "a whole number of at least 1")
    return value


def agreeing_number(spellings: Mapping[str, Any]) -> float:
    """Return the number that a file has under one or several of these names, which must agree."""
    numbers: dict[str, float] = {}
    for name, value in spellings.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise unsupported(name, value, "a number above 0")
        numbers[name] = float(value)
    if not numbers:
        raise unsupported(next(iter(spellings)), None, "a number above 0")
    (first, number), *others = numbers.items()
    for name, other in others:
        if other != number:
            raise unsupported(name, other, f"{number}, the value of {first}")
    return number


def require_fields(config: Mapping[str, Any], expected: Mapping[str, Any], *, defaults: Mapping[str, Any]) -> None:
    """Check that fields have the only values supported; a missing one has transformers' default."""
    for name, value in expected.items():
        given = config.get(name, defaults.get(name))
        if given != value:
            raise unsupported(name, given, repr(value))
    if config.get("quantization_config"):
        raise unsupported("quantization_config", config["quantization_config"], "no quantization: weights of 16 or 32 bits")
