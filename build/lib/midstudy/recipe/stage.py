"""A stage: one unit of work with an id, a recipe, parents and, when finished, a record."""

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

ROLES = ("data", "similarity", "import", "average", "pretrain", "midtrain", "sft", "evaluation")
"""What a stage does in a study: `data` are tokenizers and token files, `similarity` token counts; `midtrain` trains on a
mixture with specialists, `sft` on a task, `pretrain` on one corpus."""


def stage_id(recipe: StageRecipe) -> str:
    """The id under which the stage's record is published."""
    return recipe.id if isinstance(recipe, State | StateEvaluation) else identify(recipe)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One unit of work.

    `parents` are the stages whose records it reads. Of a state, `start_from` is the kept state that training goes on from
    (one of the parents; none: from drawn weights): execution, not identity. `continues_trunk` says that this state is on the
    same line as `start_from`, so one job should make both without stopping in between. `keeps_optimizer` says that the
    optimizer's state is published with the weights, so that training can go on from here. `num_steps` are the updates this
    stage computes; `cost_s` is its expected seconds on the chosen device, `disk_bytes` the size of its checkpoint.

    `role` is one of `ROLES`; placement goes by it and by `model`, the name of the shape. `step` is that of a state, `data`
    and `split` what the stage is about.
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
    """What the study fixes up to this stage: the factors of the phases behind it."""

    @property
    def kind(self) -> str:
        return STAGE_KINDS[type(self.recipe)].name

    @cached_property
    def canonical_form(self) -> Any:
        """The hashed form: a state's clipped curriculum, or the recipe itself."""
        return canonical(self.recipe.recipe() if isinstance(self.recipe, State) else self.recipe)

    @cached_property
    def expanded_form(self) -> Any:
        """The whole recipe as plain JSON: what a job reads and a record stores."""
        return self.recipe.expanded() if isinstance(self.recipe, State) else expanded(self.recipe)
