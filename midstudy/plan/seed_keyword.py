"""Find the keyword of an experiment's `study(...)` that gives its replicating seeds, by trying it."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midstudy.plan.experiment import load_study, study_parameters
from midstudy.recipe.errors import RecipeError
from midstudy.recipe.factors import Value
from midstudy.recipe.study import Study


@dataclass(frozen=True)
class SeedKeyword:
    """The keyword `name`, with the seeds that the study has by it now, in its order."""

    name: str
    seeds: tuple[int, ...]

    def with_more(self, number: int) -> tuple[int, ...]:
        """Return the seeds with `number` further ones: those after the largest."""
        return (*self.seeds, *range(max(self.seeds) + 1, max(self.seeds) + 1 + number))

    def setting(self, seeds: Sequence[int]) -> str:
        """Return the `--set` argument that gives these seeds."""
        return f"{self.name}={tuple(seeds)!r}"


def seed_keyword(path: Path, study: Study, *, data: Sequence[str], settings: Sequence[str]) -> SeedKeyword:
    """Return the keyword whose values are the study's first seed factor's.

    Candidates are keywords whose value, set or by default, is the tuple of those seeds, and those that are `None`, which may
    stand for them; the plural of the factor's name comes first. The one is taken with which the study, given one seed more,
    has that seed and all its arms as before.

    Args:
        study: the study that `settings` give.

    Raises:
        ValueError: the study has no seeds, its seeds are not whole numbers, or no keyword gives them.
    """
    if not study.seeds or not study.arms:
        raise ValueError(f"{path.name}: expected a study whose arms are repeated with seeds, got {study.name} without any")
    factor = study.seeds[0]
    values: list[Value] = list(dict.fromkeys(arm.factors[factor] for arm in study.arms))
    seeds = tuple(value for value in values if isinstance(value, int))
    if len(seeds) < len(values):
        raise ValueError(f"{path.name}: expected whole numbers as values of {factor}, got {values}")
    given = {name: _literal(text) for name, _, text in (setting.partition("=") for setting in settings)}
    now = {name: given.get(name, parameter.default) for name, parameter in study_parameters(path).items()}
    exact = [name for name, value in now.items() if isinstance(value, tuple | list) and set(value) == set(seeds)]
    candidates = [*exact, *(name for name, value in now.items() if value is None)]
    for name in sorted(candidates, key=lambda name: name != f"{factor}s"):
        keyword = SeedKeyword(name, tuple(now[name]) if name in exact else seeds)
        if _gives(keyword, path, study, data=data, settings=settings):
            return keyword
    raise ValueError(
        f"{path.name}: expected a keyword of study(...) whose values are those of {factor}, {seeds}, such as {factor}s, got "
        f"{', '.join(now) or 'none'}. Let a keyword give the seeds."
    )


def _gives(keyword: SeedKeyword, path: Path, study: Study, *, data: Sequence[str], settings: Sequence[str]) -> bool:
    """Return whether the study with one seed more in `keyword` has that seed, and every arm of `study`."""
    seeds = keyword.with_more(1)
    try:
        grown = load_study(path, data=data, settings=[*settings, keyword.setting(seeds)])
    except (RecipeError, ValueError):
        return False
    has = {arm.factors.get(study.seeds[0]) for arm in grown.arms}
    return has == set(seeds) and all(grown.index(arm) is not None for arm in study.arms)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
