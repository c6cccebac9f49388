"""The optimizer's recipe."""

from __future__ import annotations

from dataclasses import dataclass

from midstudy.recipe.canonical import added_field
from midstudy.recipe.errors import RecipeError, require_choice, require_number
from midstudy.recipe.plain import hold_plain_numbers

DECAYED = ("all", "matrices")


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """AdamW with decoupled weight decay.

    `clip_norm` is the largest global gradient norm; 0 turns clipping off. `decayed` names the parameters that decay: `all`
    (one parameter group, as in the paper) or `matrices` (parameters with two or more dimensions, so no biases and norms).
    """

    beta1: float
    beta2: float
    weight_decay: float
    clip_norm: float
    epsilon: float = 1e-8
    decayed: str = added_field(omit_at="all")

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        for field in ("beta1", "beta2"):
            require_number(f"optimizer.{field}", getattr(self, field), 0, 1)
        for field in ("weight_decay", "clip_norm", "epsilon"):
            require_number(f"optimizer.{field}", getattr(self, field), 0)
        require_choice("optimizer.decayed", self.decayed, DECAYED)
        if self.decayed != "all" and self.weight_decay == 0:
            raise RecipeError(
                "optimizer.decayed",
                expected="all when weight_decay is 0",
                got=self.decayed,
                fix="Any other value would train the same weights again under a different id.",
            )
