"""The optimizer's recipe: AdamW for all parameters, or a rate and a rule for each group of them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import Any

from midstudy.recipe import versions
from midstudy.recipe.canonical import added_field
from midstudy.recipe.errors import RecipeError, require_choice, require_kind, require_number, require_whole
from midstudy.recipe.plain import hold_plain_numbers
from midstudy.recipe.shape import AnyShape

DECAYED = ("all", "matrices")

SELECTIONS = ("embedding", "head", "matrices", "vectors")
"""The token embedding, the output head, all other weights of two dimensions, and those of one: biases and norms."""

MUON_ITERATIONS = 5
"""Newton-Schulz iterations of an update."""

_OWN_NUMBERS = ("beta1", "beta2", "epsilon", "weight_decay")


@dataclass(frozen=True, kw_only=True)
class Muon:
    """The rule of Muon: momentum, orthogonalised by five Newton-Schulz iterations, with Nesterov's correction.

    The momentum rises linearly from `warm_from` to `momentum` over the first `warm_updates` updates after a reset.

    Source: Jordan et al., 2024, as in nanochat: `Muon(momentum=0.95, warm_from=0.85, warm_updates=300)`.
    """

    momentum: float
    warm_from: float
    warm_updates: int
    version: int = versions.MUON

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        path = "optimizer.groups.matrices.rule"
        for field in ("momentum", "warm_from"):
            require_number(f"{path}.{field}", getattr(self, field), 0, 1)
        require_whole(f"{path}.warm_updates", self.warm_updates, what="a number of updates")
        if (self.warm_updates == 0) != (self.warm_from == self.momentum):
            raise RecipeError(
                f"{path}.warm_from",
                expected="a value other than momentum, or warm_updates 0 and warm_from equal to momentum",
                got=f"{self.warm_from}, with momentum {self.momentum} and warm_updates {self.warm_updates}",
                fix="Any other value would train the same weights again under a different id.",
            )


@dataclass(frozen=True, kw_only=True)
class Group:
    """A group of parameters, one of `SELECTIONS`, and how it is trained.

    Its learning rate is `lr_factor` times the curve, which is then a multiplier: its schedule usually has the peak 1.
    `beta1`, `beta2`, `epsilon` and `weight_decay` are those of the optimizer where they are `None`. `rule` is `None` for
    AdamW, or `Muon`, for matrices only.
    """

    select: str
    lr_factor: float
    beta1: float | None = None
    beta2: float | None = None
    epsilon: float | None = None
    weight_decay: float | None = None
    rule: Muon | None = None

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_choice("optimizer.groups.select", self.select, SELECTIONS)
        path = f"optimizer.groups.{self.select}"
        require_number(f"{path}.lr_factor", self.lr_factor, 0)
        _check_numbers(path, {name: value for name in _OWN_NUMBERS if (value := getattr(self, name)) is not None})
        if self.rule is None:
            return
        require_kind(f"{path}.rule", self.rule, Muon, expected="None for AdamW, or Muon")
        if self.select != "matrices":
            raise RecipeError(f"{path}.rule", expected="None, since Muon is for matrices", got="Muon")
        for name in ("beta1", "beta2", "epsilon"):
            if getattr(self, name) is not None:
                raise RecipeError(
                    f"{path}.{name}", expected="None with Muon, which has no such number", got=getattr(self, name)
                )


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """AdamW with decoupled weight decay.

    `clip_norm` is the largest global gradient norm; 0 turns clipping off. `decayed` names the parameters that decay: `all`
    (one parameter group, as in the paper) or `matrices` (parameters with two or more dimensions, so no biases and norms).

    `groups` gives each of `SELECTIONS` a rate and numbers of its own, and may train matrices with Muon. It is empty, or has
    one group for each selection. Clipping stays global. Groups are kept in the order of `SELECTIONS`, and a number that
    equals the optimizer's as `None`, so that equal training has one id.
    """

    beta1: float
    beta2: float
    weight_decay: float
    clip_norm: float
    epsilon: float = 1e-8
    decayed: str = added_field(omit_at="all")
    groups: tuple[Group, ...] = added_field(omit_at=())

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        _check_numbers("optimizer", {name: getattr(self, name) for name in (*_OWN_NUMBERS, "clip_norm")})
        require_choice("optimizer.decayed", self.decayed, DECAYED)
        if self.decayed != "all" and self.weight_decay == 0:
            raise RecipeError(
                "optimizer.decayed",
                expected="all when weight_decay is 0",
                got=self.decayed,
                fix="Any other value would train the same weights again under a different id.",
            )
        require_kind("optimizer.groups", self.groups, tuple, expected="a tuple of Group")
        if self.groups:
            self._hold_groups()

    def _hold_groups(self) -> None:
        for group in self.groups:
            require_kind("optimizer.groups", group, Group, expected="a tuple of Group")
        times = Counter(group.select for group in self.groups)
        for selection in SELECTIONS:
            if times[selection] != 1:
                raise RecipeError(
                    "optimizer.groups",
                    expected=f"one group for each of {', '.join(SELECTIONS)}",
                    got=f"{times[selection] or 'no'} group{'s' if times[selection] else ''} for {selection}",
                )
        if self.decayed != "all":
            raise RecipeError(
                "optimizer.decayed",
                expected="all with groups",
                got=self.decayed,
                fix="Set the weight_decay of each group instead.",
            )
        held: list[Group] = []
        for group in sorted(self.groups, key=lambda group: SELECTIONS.index(group.select)):
            same: dict[str, Any] = {name: None for name in _OWN_NUMBERS if getattr(group, name) == getattr(self, name)}
            held.append(dataclasses.replace(group, **same))
        object.__setattr__(self, "groups", tuple(held))

    @property
    def muon(self) -> Muon | None:
        """The rule of matrices if it is Muon."""
        return next((group.rule for group in self.groups if group.rule is not None), None)

    def numbers_of(self, group: Group) -> dict[str, float]:
        """Return `beta1`, `beta2`, `epsilon` and `weight_decay` of one of the groups: its own, or else the optimizer's."""
        own = {name: getattr(group, name) for name in _OWN_NUMBERS}
        return {name: getattr(self, name) if value is None else value for name, value in own.items()}

    def rates(self, lr: float) -> dict[str, float]:
        """Return the curve's value as `lr` and, if there are groups, each group's rate as `lr_<selection>`."""
        return {"lr": lr, **{f"lr_{group.select}": lr * group.lr_factor for group in self.groups}}

    def flops_per_update(self, model: AnyShape) -> float:
        """Return the FLOPs of the matrix products of one update: 0 for AdamW, which has none.

        An iteration of Newton-Schulz on m × n, m ≤ n, has products of 2 m² n, 2 m³ and 2 m² n FLOPs. Query, key and value
        are three matrices of a block.
        """
        if self.muon is None:
            return 0.0
        shapes = [(min(shape), max(shape)) for shape in model.matrices]
        return model.num_layers * MUON_ITERATIONS * sum(4.0 * m * m * n + 2.0 * m**3 for m, n in shapes)


def _check_numbers(path: str, numbers: dict[str, float]) -> None:
    for name, value in numbers.items():
        if name in ("beta1", "beta2"):
            require_number(f"{path}.{name}", value, 0, 1)
        else:
            require_number(f"{path}.{name}", value, 0)
