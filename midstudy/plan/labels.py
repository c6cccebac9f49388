"""Make stage labels unique: append to equal labels the factors or fields in which their stages differ."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from midstudy.recipe.factors import Value
from midstudy.recipe.measure import StateEvaluation
from midstudy.recipe.stage import Stage

_LONGEST_VALUE = 40
"""Longest value, in characters, that a label can hold."""

_DERIVED_FIELDS = ("start_step", "stop_step", "skipped_steps")
"""Fields that follow from others; a label names them only as a last resort."""

_OMITTED_COMPONENTS = re.compile(r"\b(curriculum|stretches|phase|curve|segments|shape|evaluation)\.")
"""Path components around a field of a stage's recipe that carry no information."""


def evaluation_label(recipe: StateEvaluation, label_of: Callable[[str], str]) -> str:
    """Return the label of an evaluation, given those of the states that it reads."""
    evaluation = recipe.evaluation
    states = " with ".join(label_of(state_id) for state_id in recipe.state_ids)
    return (
        f"{'evaluate' if evaluation.other_id is None else 'compare'} {states} on {evaluation.data.name} {evaluation.split}"
    )


def with_unique_labels(stages: Mapping[str, Stage]) -> dict[str, Stage]:
    """Return the stages with unique labels.

    Where labels are equal, the factors that differ are appended (`…, mix code`), or else fields of the recipe
    (`…, precision fp32`). If no field distinguishes the stages, the start of the stage id is appended. States are labelled
    first because the labels of evaluations contain theirs.
    """
    labels = _unique_labels({i: s for i, s in stages.items() if not isinstance(s.recipe, StateEvaluation)})
    evaluations = {}
    for stage_id, stage in stages.items():
        if isinstance(stage.recipe, StateEvaluation):
            evaluations[stage_id] = replace(stage, label=evaluation_label(stage.recipe, labels.__getitem__))
    labels |= _unique_labels(evaluations)
    return {i: stage if labels[i] == stage.label else replace(stage, label=labels[i]) for i, stage in stages.items()}


def _unique_labels(stages: Mapping[str, Stage]) -> dict[str, str]:
    """Return a unique label for each stage id."""
    alike: dict[str, list[str]] = defaultdict(list)
    for stage_id, stage in stages.items():
        alike[stage.label].append(stage_id)
    labels = {}
    for label, ids in alike.items():
        if len(ids) == 1:
            labels[ids[0]] = label
            continue
        suffixes = _differences([_fields(stages[stage_id]) for stage_id in ids])
        named = [", ".join([label, *suffix]) for suffix in suffixes]
        times = Counter(named)
        for stage_id, name in zip(ids, named, strict=True):
            labels[stage_id] = name if times[name] == 1 else f"{name} {stage_id[:6]}"
    return labels


def _differences(recipes: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """Return for each recipe the fewest fields, with values, that distinguish it from the others.

    Among equally good fields, those present in all recipes come first, then the order in the recipe decides.
    """
    fields = sorted(
        dict.fromkeys(name for recipe in recipes for name in recipe),
        key=lambda name: (sum(name not in recipe for recipe in recipes), name in _DERIVED_FIELDS),
    )
    chosen: list[list[str]] = [[] for _ in recipes]
    while len({tuple(words) for words in chosen}) < len(recipes):
        gains = {
            name: len({(*words, recipe.get(name)) for words, recipe in zip(chosen, recipes, strict=True)})
            for name in fields
            if all(len(recipe.get(name, "")) <= _LONGEST_VALUE for recipe in recipes)
        }
        best = max(gains, key=lambda name: gains[name], default=None)
        if best is None or gains[best] == len({tuple(words) for words in chosen}):
            return chosen
        for words, recipe in zip(chosen, recipes, strict=True):
            words.append(f"{best} {recipe[best]}" if best in recipe else f"no {best}")
    return chosen


def _fields(stage: Stage) -> dict[str, str]:
    """Return a stage's factors and then the fields of its recipe, by name, as text.

    A field that occurs in several phases lists its values: `fp32 → bf16_true`.
    """
    texts: dict[str, list[str]] = defaultdict(list)
    for path, value in _leaves(stage.canonical_form, ""):
        kind_of_segment = path.endswith("segments.is")
        name = "learning rate" if kind_of_segment else _OMITTED_COMPONENTS.sub("", path)
        if name.rsplit(".", 1)[-1] not in ("is", "state_id"):
            texts[name].append(f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value))
            if kind_of_segment:
                texts[name][-1] = str(value).lower()
    fields = {
        name: " → ".join(text for place, text in enumerate(values) if place == 0 or text != values[place - 1])
        for name, values in texts.items()
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
