"""Reads a recipe back from the plain JSON that a store holds."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

from midstudy.recipe.curriculum import Curriculum, Start, State, Stretch
from midstudy.recipe.data import Corpus, Source, Task, TokenizedData, Tokenizer
from midstudy.recipe.errors import RecipeError
from midstudy.recipe.measure import Evaluation, StateEvaluation, TokenCounts
from midstudy.recipe.mixture import Mixture, Share
from midstudy.recipe.model import ModelShape
from midstudy.recipe.optimizer import AdamW
from midstudy.recipe.phase import Phase
from midstudy.recipe.schedule import Constant, Cosine, Curve, Hold, LinearWarmup, Ramp, WarmupStableDecay

_CLASSES = {
    cls.__name__: cls
    for cls in (
        *(
            AdamW,
            Constant,
            Corpus,
            Cosine,
            Curriculum,
            Curve,
            Evaluation,
            Hold,
            LinearWarmup,
            Mixture,
            ModelShape,
            Phase,
        ),
        *(Ramp, Share, Source, Start, State, StateEvaluation, Stretch, Task, TokenCounts, TokenizedData, Tokenizer),
        WarmupStableDecay,
    )
}


def decode(form: Any, path: str = "recipe") -> Any:
    """The recipe that `canonical.expanded` wrote out.

    Raises:
        RecipeError: an unknown class, or a field that the class does not have or that is missing.
    """
    if isinstance(form, list):
        return tuple(decode(item, f"{path}[{index}]") for index, item in enumerate(form))
    if not isinstance(form, dict):
        return form
    name = form.get("is")
    cls = _CLASSES.get(name) if isinstance(name, str) else None
    if cls is None:
        raise RecipeError(f"{path}.is", found=name, allowed=", ".join(sorted(_CLASSES)))
    fields = {key: decode(item, f"{path}.{key}") for key, item in form.items() if key != "is"}
    known = {field.name: field for field in dataclasses.fields(cls)}
    if unknown := sorted(fields.keys() - known.keys()):
        raise RecipeError(
            f"{path}.{unknown[0]}",
            found="a field this version does not know",
            allowed=", ".join(known),
            fix="The recipe was written by a newer midstudy: update, or use another store.",
        )
    if cls is Share:
        for key in fields.keys() & {"share", "loss_weight"}:
            fields[key] = Fraction(str(fields[key]))
    try:
        return cls(**fields)
    except TypeError as error:
        raise RecipeError(path, found=str(error), allowed=f"the fields of {name}: {', '.join(known)}") from None
