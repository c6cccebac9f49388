"""Make stage labels unique: stages whose labels collide get the factors or fields in which they differ appended."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from midstudy.recipe.factors import Value
from midstudy.recipe.measure import StateEvaluation
from midstudy.recipe.stage import Stage

_LONGEST_VALUE = 40
"""Longest value, in characters, that a label can hold."""

_PLACES = ("start_step", "stop_step", "skipped_steps")
"""Fields that follow from earlier ones and are the least informative."""

_OF_A_STATE = re.compile(r"\b(curriculum|stretches|phase|curve|segments|shape|evaluation)\.")
"""Path components around a field of a stage's recipe that carry no information."""


def with_labels_of_their_own(stages: Mapping[str, Stage]) -> dict[str, Stage]:
    """The stages with unique labels: where labels collide, the factors that differ are appended (`…, mix code`), or else
    fields of the recipe (`…, precision fp32`).

    States come first because evaluation labels contain them. If no field can tell stages apart, the start of the stage id
    is appended.
    """
    labels = _told_apart({i: s for i, s in stages.items() if not isinstance(s.recipe, StateEvaluation)})
    evaluations = {}
    for identity, stage in stages.items():
        if isinstance(stage.recipe, StateEvaluation):
            state = stage.recipe.state_id
            label = stage.label.replace(stages[state].label, labels[state], 1)
            evaluations[identity] = replace(stage, label=label)
    labels |= _told_apart(evaluations)
    return {i: stage if labels[i] == stage.label else replace(stage, label=labels[i]) for i, stage in stages.items()}


def _told_apart(stages: Mapping[str, Stage]) -> dict[str, str]:
    """Unique label by stage id."""
    alike: dict[str, list[str]] = defaultdict(list)
    for identity, stage in stages.items():
        alike[stage.label].append(identity)
    labels = {}
    for label, ids in alike.items():
        if len(ids) == 1:
            labels[ids[0]] = label
            continue
        words = _differences([_fields(stages[identity]) for identity in ids])
        named = [", ".join([label, *more]) for more in words]
        times = Counter(named)
        for identity, name in zip(ids, named, strict=True):
            labels[identity] = name if times[name] == 1 else f"{name} {identity[:6]}"
    return labels


def _differences(recipes: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """For each recipe, the fewest fields (with values) that distinguish it from the others. Ties go to fields present in all
    recipes, then to recipe order.
    """
    fields = sorted(
        dict.fromkeys(name for recipe in recipes for name in recipe),
        key=lambda name: (sum(name not in recipe for recipe in recipes), name in _PLACES),
    )
    words: list[list[str]] = [[] for _ in recipes]
    while len({tuple(one) for one in words}) < len(recipes):
        gains = {
            name: len({(*one, recipe.get(name)) for one, recipe in zip(words, recipes, strict=True)})
            for name in fields
            if all(len(recipe.get(name, "")) <= _LONGEST_VALUE for recipe in recipes)
        }
        best = max(gains, key=lambda name: gains[name], default=None)
        if best is None or gains[best] == len({tuple(one) for one in words}):
            return words
        for one, recipe in zip(words, recipes, strict=True):
            one.append(f"{best} {recipe[best]}" if best in recipe else f"no {best}")
    return words


def _fields(stage: Stage) -> dict[str, str]:
    """Factors, then field values of the recipe by name, as text; a field of several phases lists its values:
    `fp32 → bf16_true`.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for path, value in _leaves(stage.canonical_form, ""):
        kind_of_segment = path.endswith("segments.is")
        name = "learning rate" if kind_of_segment else _OF_A_STATE.sub("", path)
        if name.rsplit(".", 1)[-1] not in ("is", "state_id"):
            found[name].append(f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value))
            if kind_of_segment:
                found[name][-1] = str(value).lower()
    fields = {
        name: " → ".join(text for place, text in enumerate(values) if place == 0 or text != values[place - 1])
        for name, values in found.items()
    }
    factors = {name.replace("_", " "): _text(value) for name, value in stage.factors.items()}
    return factors | {name: text for name, text in fields.items() if name not in factors}


def _text(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _leaves(form: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(form, Mapping):
        for key, value in form.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    elif isinstance(form, list):
        for value in form:
            yield from _leaves(value, path)
    else:
        yield path, form
