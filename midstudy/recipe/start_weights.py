"""Initial weights of a curriculum that are not drawn: a released checkpoint, or an average of states.

An average is taken over kept states of other curricula, such as the last states of one run or the final states of several
seeds of an anneal.
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
    """Weights of a released Hugging Face checkpoint; `midstudy.data.release` builds one.

    The revision of a folder is the digest of its safetensors files, that of a Hub model its commit. `name` and `step` (the
    training step of the checkpoint, if known) are for display and do not affect any id.
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
    """The uniform mean of the weights of several states; build it with `Average.of` or `Average.last`.

    The states are clipped to their own past and sorted by canonical text, so that neither their order nor the rest of their
    runs affects any id. The mean is computed in fp64 and rounded once, to the type of the states' weights.
    """

    states: tuple[State, ...]
    version: int = versions.AVERAGING

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        from midstudy.recipe.curriculum import State  # a curriculum's start may itself be an average

        for state in self.states:
            require_kind("average.states", state, State, expected="a State, such as curriculum.state()")
        clipped = sorted((state.recipe() for state in self.states), key=canonical_text)
        object.__setattr__(self, "states", tuple(clipped))
        if len(self.states) < 2:
            raise RecipeError("average.states", expected="at least two states", got=len(self.states))
        first = self.states[0]
        for before, state in zip(self.states, self.states[1:], strict=False):
            if state.id == before.id:
                raise RecipeError(
                    "average.states",
                    expected="each state once",
                    got=f"state {state.id} (step {state.step}) twice",
                    fix="Runs with the same past share their states: vary the seed of a phase before this step.",
                )
            for field in ("model", "tokenizer"):
                if identify(getattr(state.curriculum.start, field)) != identify(getattr(first.curriculum.start, field)):
                    raise RecipeError(f"average.states.{field}", expected=f"the same {field} in all states", got="two")
            if state.precision != first.precision:
                got = f"{first.precision} and {state.precision}"
                raise RecipeError("average.states.precision", expected="the same precision in all states", got=got)
        for state in self.states:
            if state.step == 0 and state.curriculum.start.weights is None:
                raise RecipeError(
                    "average.states.step", expected="a step of at least 1, except for a release or an average", got=0
                )

    @classmethod
    def of(cls, *states: State) -> Average:
        """Return the average of these states; their order does not matter.

        Raises:
            RecipeError: there are fewer than two states, one occurs twice, one is untrained, or their models, tokenizers or
                precisions differ.
        """
        return cls(states=states)

    @classmethod
    def last(cls, curriculum: Curriculum, *, num_states: int, every_steps: int) -> Average:
        """Return the average of the last `num_states` states of a run, `every_steps` steps apart, including its final state.

        Raises:
            RecipeError: the run has too few steps.
        """
        num_states, every_steps = plain(num_states), plain(every_steps)
        require_positive("average.num_states", num_states, unit="states")
        require_positive("average.every_steps", every_steps, unit="steps")
        first_step = curriculum.num_steps - (num_states - 1) * every_steps
        if first_step < 1:
            raise RecipeError(
                "average.num_states",
                expected=f"states within steps 1 to {curriculum.num_steps} of the run",
                got=f"{num_states} states every {every_steps} steps",
            )
        return cls(states=tuple(curriculum.state(step) for step in range(first_step, curriculum.num_steps + 1, every_steps)))
