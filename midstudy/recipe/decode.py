"""Decode recipes from the plain JSON that a store holds."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

from midstudy.recipe import (
    choice,
    choices,
    curriculum,
    curve,
    data,
    llama_shape,
    measure,
    mixture,
    model,
    noise_scale,
    optimizer,
    packing,
    parts,
    phase,
    preparation,
    representation,
    rollouts,
    schedule,
    start_weights,
    task_mixture,
    train_part,
)
from midstudy.recipe.errors import RecipeError

_MODULES = (
    *(choice, choices, curriculum, curve, data, llama_shape, measure, mixture, model, noise_scale, optimizer, packing),
    *(parts, phase, preparation, representation, rollouts, schedule, start_weights, task_mixture, train_part),
)
_CLASSES: dict[str, Any] = {
    name: cls
    for module in _MODULES
    for name, cls in vars(module).items()
    if isinstance(cls, type) and dataclasses.is_dataclass(cls) and not name.startswith("_")
}


def decode(form: Any, path: str = "recipe") -> Any:
    """Return the recipe that `canonical.expanded` encoded.

    Raises:
        RecipeError: a class is unknown, or a field is unknown, missing or of the wrong type.
    """
    try:
        return _decode(form, path)
    except RecursionError:
        raise RecipeError(path, expected="a recipe written by midstudy", got="one that is nested too deeply") from None


def _decode(form: Any, path: str) -> Any:
    if isinstance(form, list):
        return tuple(_decode(item, f"{path}[{index}]") for index, item in enumerate(form))
    if not isinstance(form, dict):
        return form
    name = form.get("is")
    cls = _CLASSES.get(name) if isinstance(name, str) else None
    if cls is None:
        raise RecipeError(f"{path}.is", expected=f"one of {', '.join(sorted(_CLASSES))}", got=name)
    fields = {key: _decode(item, f"{path}.{key}") for key, item in form.items() if key != "is"}
    known = {field.name: field for field in dataclasses.fields(cls)}
    if unknown := sorted(fields.keys() - known.keys()):
        raise RecipeError(
            f"{path}.{unknown[0]}",
            expected=f"one of {', '.join(known)}",
            got="a field that this version does not have",
            fix="A newer midstudy wrote the recipe: update midstudy, or use another store.",
        )
    for key in fields:
        if known[key].type == "Fraction":  # annotations are text
            try:
                fields[key] = Fraction(str(fields[key]))
            except (ValueError, ZeroDivisionError):
                raise RecipeError(f"{path}.{key}", expected="a fraction, such as '1/5'", got=repr(fields[key])) from None
    try:
        return cls(**fields)
    except (TypeError, AttributeError) as error:  # a missing field, or one of the wrong type
        raise RecipeError(path, expected=f"the fields of {name}: {', '.join(known)}", got=str(error)) from None
