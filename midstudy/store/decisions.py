"""Decisions in a store: what a finished one says, and recipes with the outcomes of their choices filled in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

from midstudy.recipe.choice import Choice, with_outcomes
from midstudy.store.record import Record
from midstudy.store.store import Store

_Recipe = TypeVar("_Recipe")


@dataclass(frozen=True, kw_only=True)
class Tried:
    """An option of a decision: its value, the evaluation of its candidate, and the metric; NaN if that is not finite."""

    value: float
    evaluation: str
    measured: float


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The outcome of a choice, from the record of its stage. `judged_on` is the data set and split of the evaluations."""

    id: str
    name: str
    chosen: float
    metric: str
    rule: str
    judged_on: str
    tried: tuple[Tried, ...]

    @classmethod
    def of(cls, record: Record) -> Decision:
        """Return the decision that a record of the kind `decision` holds."""
        facts = record.metrics
        tried = tuple(
            Tried(
                value=option["value"],
                evaluation=option["evaluation"],
                measured=math.nan if option["measured"] is None else option["measured"],
            )
            for option in facts["options"]
        )
        known = {name: facts[name] for name in ("name", "chosen", "metric", "rule", "judged_on")}
        return cls(id=record.id, tried=tried, **known)

    @property
    def best(self) -> float:
        """The metric of the chosen option."""
        return next(option.measured for option in self.tried if option.value == self.chosen)

    def margin(self, option: Tried) -> float:
        """Return by how much the metric of an option is worse than that of the chosen one; NaN if it is not finite."""
        return option.measured - self.best if self.rule == "lowest" else self.best - option.measured

    @property
    def sentence(self) -> str:
        """The outcome as a sentence without its end, such as `sft_peak_lr 0.001 has the lowest loss_nats …`."""
        others = ", ".join(
            f"{option.value:g}: " + ("not finite" if math.isnan(option.measured) else f"{option.measured:.4f}")
            for option in self.tried
            if option.value != self.chosen
        )
        return (
            f"{self.name} {self.chosen:g} has the {self.rule} {self.metric} on {self.judged_on}, {self.best:.4f} ({others})"
        )


def outcome(store: Store, choice: Choice) -> float | None:
    """Return the value that a choice has decided, `None` if its decision is not finished.

    Raises:
        StoreError: the decision's record is damaged.
    """
    return Decision.of(store.record(choice.id)).chosen if store.has(choice.id) else None


def has_diverged(store: Store, state_id: str) -> bool:
    """Return whether the last attempt at a state ended because its training diverged.

    Raises:
        StoreError: the file that says why it failed is damaged.
    """
    failure = store.failure(state_id)
    return failure is not None and failure["cause"].startswith("DivergedError:")


def as_decided(store: Store, recipe: _Recipe) -> _Recipe:
    """Return the recipe with the outcomes of all finished decisions; its ids are the same.

    Raises:
        StoreError: the record of a decision is damaged.
    """
    known: dict[str, Any] = {}

    def recorded(choice: Choice) -> float | None:
        if choice.id not in known:
            known[choice.id] = outcome(store, choice)
        return known[choice.id]

    return with_outcomes(recipe, recorded)
