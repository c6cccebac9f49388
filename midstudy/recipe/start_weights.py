"""Where the first weights of a curriculum come from when they are not drawn: a released checkpoint, or an average.

An average is of kept states of other curricula: the last ones of one run, or the ends of several seeds of one anneal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from midstudy.recipe import versions
from midstudy.recipe.canonical import canonical_text, identify, label_field
from midstudy.recipe.data import Source
from midstudy.recipe.errors import RecipeError, require_choice, require_kind, require_name, require_positive
from midstudy.recipe.plain import hold_plain_numbers, plain

if TYPE_CHECKING:
    from midstudy.recipe.curriculum import Curriculum, State


@dataclass(frozen=True, kw_only=True)
class Release:
    """Weights of a Hugging Face GPT-NeoX checkpoint, as it was released; `midstudy.data.release` finds one.

    The revision of a folder is the digest of its safetensors files, that of a hub model its commit. `name` and `step` (of
    the training that made it, where that is known) are shown and are no part of any id.
    """

    name: str = label_field()
    source: Source
    step: int | None = label_field(default=None)

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_name("release.name", self.name)
        require_choice("release.source.kind", self.source.kind, ("files", "hub"))

    def __str__(self) -> str:
        return self.name if self.step is None else f"{self.name}@step{self.step}"


@dataclass(frozen=True, kw_only=True)
class Average:
    """The uniform mean of the weights of states; build it with `Average.of` or `Average.last`.

    The states are kept clipped to their past and in order of their canonical text, so that neither the order in which they
    are written nor what their runs go on to do is part of any id. The mean is taken in fp64 and rounded once, to the type of
    the states' weights.
    """

    states: tuple[State, ...]
    version: int = versions.AVERAGING

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        from midstudy.recipe.curriculum import State  # a curriculum's start may itself be an average

        for state in self.states:
            require_kind("average.states", state, State, expected="states; a curriculum's last is curriculum.state()")
        clipped = sorted((state.recipe() for state in self.states), key=canonical_text)
        object.__setattr__(self, "states", tuple(clipped))
        if len(self.states) < 2:
            raise RecipeError("average.states", expected="two or more", got=f"{len(self.states)} states")
        first = self.states[0]
        for before, state in zip(self.states, self.states[1:], strict=False):
            if state.id == before.id:
                raise RecipeError(
                    "average.states",
                    expected="each state once",
                    got=f"state {state.id} (step {state.step}) twice",
                    fix="Seeds that share their whole past are one state: vary the seed of the phase that differs.",
                )
            for field in ("model", "tokenizer"):
                if identify(getattr(state.curriculum.start, field)) != identify(getattr(first.curriculum.start, field)):
                    raise RecipeError(f"average.states.{field}", expected="one, the same in all", got="two different ones")
            if state.precision != first.precision:
                found = f"{first.precision} and {state.precision}"
                raise RecipeError("average.states.precision", expected="one, the same in all", got=found)
        for state in self.states:
            if state.step == 0 and state.curriculum.start.weights is None:
                raise RecipeError(
                    "average.states.step", expected="trained states, or step 0 of a release or an average", got=0
                )

    @classmethod
    def of(cls, *states: State) -> Average:
        """The average of these states, in whatever order.

        Raises:
            RecipeError: fewer than two states, one twice, or states of different models, tokenizers or precisions.
        """
        return cls(states=states)

    @classmethod
    def last(cls, curriculum: Curriculum, *, num_states: int, every_steps: int) -> Average:
        """The average of the last `num_states` states of a run, `every_steps` apart, its end among them.

        Raises:
            RecipeError: the run is too short for them.
        """
        num_states, every_steps = plain(num_states), plain(every_steps)
        require_positive("average.num_states", num_states, unit="states")
        require_positive("average.every_steps", every_steps, unit="steps")
        first_step = curriculum.num_steps - (num_states - 1) * every_steps
        if first_step < 1:
            raise RecipeError(
                "average.num_states",
                expected=f"states at steps 1 to {curriculum.num_steps} of the run",
                got=f"{num_states} states every {every_steps} steps",
            )
        return cls(states=tuple(curriculum.state(step) for step in range(first_step, curriculum.num_steps + 1, every_steps)))
