"""A stage: one unit of work with an id, a recipe, parents and, once finished, a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from midstudy.recipe.canonical import canonical, expanded, identify
from midstudy.recipe.curriculum import State
from midstudy.recipe.factors import Value
from midstudy.recipe.kinds import STAGE_KINDS, StageRecipe
from midstudy.recipe.measure import StateEvaluation

ROLES = ("data", "similarity", "import", "average", "pretrain", "midtrain", "sft", "rl", "evaluation", "decision")
"""What a stage does in a study. `data` makes a tokenizer or token files, or packs items; `similarity` counts tokens;
`pretrain` trains on one corpus, `midtrain` on a mixture with specialists or on packed items, `sft` on items, one in a
sequence, `rl` on rollouts; `decision` makes a choice from evaluations."""


def stage_id(recipe: StageRecipe) -> str:
    """Return the id under which the stage's record is published."""
    return recipe.id if isinstance(recipe, State | StateEvaluation) else identify(recipe)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One unit of work.

    `parents` are the stages whose records it reads. For a state, `start_from` is the kept state that training resumes from:
    one of the parents, or `None` for drawn weights. It affects execution, not the id. `continues_trunk` means that this
    state lies on the same trunk as `start_from`, so one job should make both without a stop in between. `keeps_optimizer`
    means that the optimizer state is published with the weights, so that training can continue from here. `num_steps` is
    the number of updates that this stage computes, `cost_s` its expected seconds on the chosen device and `disk_bytes` the
    size of its checkpoint.

    `role` is one of `ROLES`. Placement depends on it and on `model`, the name of the shape. `step` is the step of a state;
    `data` and `split` name what the stage reads.
    """

    id: str
    label: str
    recipe: StageRecipe = field(repr=False)
    parents: tuple[str, ...]
    start_from: str | None = None
    continues_trunk: bool = False
    keeps_optimizer: bool = False
    num_steps: int = 0
    num_tokens: int = 0
    cost_s: float = 0.0
    disk_bytes: int = 0
    role: str
    model: str = ""
    step: int | None = None
    data: str = ""
    split: str = ""
    factors: Mapping[str, Value] = field(default_factory=dict, hash=False)
    """What the study fixes up to this stage: the factors of the phases that lead to it."""

    @property
    def kind(self) -> str:
        return STAGE_KINDS[type(self.recipe)].name

    @cached_property
    def canonical_form(self) -> Any:
        """The canonical form: of a state's clipped curriculum, or of the recipe itself."""
        return canonical(self.recipe.recipe() if isinstance(self.recipe, State) else self.recipe)

    @cached_property
    def expanded_form(self) -> Any:
        """The whole recipe as plain JSON: jobs read it and records store it."""
        return self.recipe.expanded() if isinstance(self.recipe, State) else expanded(self.recipe)
