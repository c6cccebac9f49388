"""A choice between values that a study decides by a measurement: the rule is hashed, the outcome is recorded.

Each option is a value and a state that tries it. All states are evaluated alike, and the value whose state has the best
metric is chosen. A recipe holds `Chosen(choice)` where it would hold the value, so its ids cover the options, the states
that try them and the evaluation, and not the outcome. The decision is a stage; its first record is the outcome for all
later stages, and `with_outcomes` fills it in before they run.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from midstudy.recipe import versions
from midstudy.recipe.canonical import identify, label_field, planning_field
from midstudy.recipe.errors import RecipeError, require_kind, require_number
from midstudy.recipe.plain import hold_plain_numbers

if TYPE_CHECKING:
    from midstudy.recipe.curriculum import State
    from midstudy.recipe.measure import Evaluation

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")

_Recipe = TypeVar("_Recipe")


@dataclass(frozen=True, kw_only=True)
class Option:
    """A value, and the id of the state that tries it. `state` is that state while a study is planned; no file holds it."""

    value: float
    state_id: str
    state: State | None = planning_field()

    def __post_init__(self) -> None:
        hold_plain_numbers(self)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Options, and the evaluation and metric that judge them; build it with `Choice.between`.

    The best value of the metric wins: the lowest or the highest, as the metric defines (`rule`). Of equal values the first
    option wins. A value that is not finite never wins. `name` is for display and names the column `chosen:NAME` of the
    table of arms.
    """

    name: str = label_field()
    options: tuple[Option, ...]
    evaluation: Evaluation
    metric: str
    version: int = versions.DECISION

    def __post_init__(self) -> None:
        from midstudy.recipe.measure import Evaluation as EvaluationRecipe  # imports phases, whose schedules hold choices
        from midstudy.recipe.measure import require_metric

        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            expected = "a name of lower-case letters, digits and _ that starts with a letter"
            raise RecipeError("choice.name", expected=expected, got=repr(self.name))
        path = f"choices.{self.name}"
        require_kind(f"{path}.evaluation", self.evaluation, EvaluationRecipe, expected="an Evaluation")
        if self.evaluation.split == "test":
            raise RecipeError(
                f"{path}.evaluation.split",
                expected="dev or train, since the test split is for what was chosen",
                got="test",
            )
        require_metric(path, self.evaluation, self.metric, self._better or "lower")
        if len(self.options) < 2:
            raise RecipeError(f"{path}.options", expected="at least two options", got=len(self.options))
        for what, seen in (("value", self.values), ("state", tuple(option.state_id for option in self.options))):
            if len(set(seen)) < len(seen):
                raise RecipeError(f"{path}.options", expected=f"a different {what} in each option", got=seen)
        for option in self.options:
            require_number(f"{path}.options", option.value, -math.inf)

    @classmethod
    def between(
        cls, name: str, tried: Mapping[float, State], *, evaluation: Evaluation, metric: str = "loss_nats"
    ) -> Choice:
        """Return the choice between the values of `tried`, each with the state that tries it.

        Raises:
            RecipeError: there are fewer than two values, two have the same state, a state is the random weights of a start,
                the evaluation does not report the metric, or it reads the test split.
        """
        for value, state in tried.items():
            if state.step == 0:
                expected = "a state after at least one step"
                raise RecipeError(f"choices.{name}.options", expected=expected, got=f"a start, for the value {value}")
        options = tuple(Option(value=value, state_id=state.id, state=state) for value, state in tried.items())
        return cls(name=name, options=options, evaluation=evaluation, metric=metric)

    @property
    def values(self) -> tuple[float, ...]:
        """The values of the options, in their order."""
        return tuple(option.value for option in self.options)

    @property
    def _better(self) -> str:
        return next((metric.better for metric in self.evaluation.reported if metric.name == self.metric), "")

    @property
    def rule(self) -> str:
        """Which value of the metric wins: `lowest` or `highest`."""
        return {"lower": "lowest", "higher": "highest"}[self._better]

    @property
    def judged_on(self) -> str:
        """The data set and split of the evaluation."""
        return f"{self.evaluation.data.name} {self.evaluation.split}"

    @cached_property
    def id(self) -> str:
        """The id of the decision stage."""
        return identify(self)

    @property
    def candidates(self) -> tuple[State, ...]:
        """The states that try the options, in their order; a recipe that was read from a file has none."""
        return tuple(option.state for option in self.options if option.state is not None)

    def best(self, measured: Sequence[float]) -> int:
        """Return the index of the option that wins.

        Args:
            measured: the metric of each option, in their order; it may be NaN or infinite.

        Raises:
            ValueError: no value is finite.
        """
        finite = [index for index in range(len(self.options)) if math.isfinite(measured[index])]
        if not finite:
            tried = ", ".join(f"{value:g}" for value in self.values)
            raise ValueError(
                f"choice {self.name}: expected a finite {self.metric} on {self.judged_on} for at least one of {tried}, got "
                "none. Change the options."
            )
        sign = 1.0 if self.rule == "lowest" else -1.0
        return min(finite, key=lambda index: sign * measured[index])  # the first one of equal values


@dataclass(frozen=True)
class Chosen:
    """Stands for the value that `choice` decides. `value` is the outcome: `None` until it is known, and never hashed."""

    choice: Choice
    value: float | None = label_field(default=None)

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_kind("chosen.choice", self.choice, Choice, expected="a Choice")
        if self.value is not None and self.value not in self.choice.values:
            expected = f"one of {', '.join(f'{value:g}' for value in self.choice.values)}"
            raise RecipeError(f"choices.{self.choice.name}.value", expected=expected, got=self.value)

    @property
    def number(self) -> float:
        """The outcome.

        Raises:
            RecipeError: the choice has not been decided.
        """
        if self.value is None:
            raise RecipeError(
                f"choices.{self.choice.name}",
                expected="a decided value",
                got="an open choice",
                fix="Its decision is made while the study runs: nothing in the plan can depend on the value.",
            )
        return self.value


Decidable = float | Chosen
"""A number, or one that is decided while the study runs."""


def number_of(value: Decidable) -> float:
    """Return a number, or the outcome of a choice.

    Raises:
        RecipeError: the choice has not been decided.
    """
    return value.number if isinstance(value, Chosen) else value


def possible_numbers(value: Decidable) -> tuple[float, ...]:
    """Return every number that `value` may stand for."""
    return value.choice.values if isinstance(value, Chosen) else (value,)


def chosen_in(recipe: Any) -> Iterator[Chosen]:
    """Yield every `Chosen` inside a recipe, also in the runs of an average that it starts from, but not in candidates."""
    if isinstance(recipe, Chosen):
        yield recipe
    else:
        for _, item in _members(recipe):
            yield from chosen_in(item)


def with_outcomes(recipe: _Recipe, outcome: Callable[[Choice], float | None]) -> _Recipe:
    """Return the recipe with the outcome of every choice that has one; its ids are the same.

    Args:
        outcome: returns the value that a choice has decided, `None` if it has not.
    """
    return _filled(recipe, outcome)


def _filled(item: Any, outcome: Callable[[Choice], float | None]) -> Any:
    if isinstance(item, Chosen):
        return Chosen(item.choice, outcome(item.choice))
    changed = {key: new for key, old in _members(item) if (new := _filled(old, outcome)) is not old}
    if not changed:
        return item
    if isinstance(item, tuple):
        return tuple(changed.get(index, old) for index, old in enumerate(item))
    return dataclasses.replace(item, **changed)


def _members(item: Any) -> Iterator[tuple[Any, Any]]:
    """Yield what a dataclass or a tuple holds, by field name or index."""
    if isinstance(item, tuple):
        yield from enumerate(item)
    elif dataclasses.is_dataclass(item) and not isinstance(item, type):
        for field in dataclasses.fields(item):
            yield field.name, getattr(item, field.name)
