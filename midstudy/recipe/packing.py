"""The packing of a mixture of tasks: the stage that decides which items fill which row of which batch."""

from __future__ import annotations

from dataclasses import dataclass

from midstudy.recipe.canonical import identify
from midstudy.recipe.data import ReleasedTokenizer, TokenizedData, Tokenizer
from midstudy.recipe.errors import RecipeError, require_kind, require_positive, require_whole
from midstudy.recipe.phase import Phase
from midstudy.recipe.plain import hold_plain_numbers
from midstudy.recipe.task_mixture import TaskMixture


@dataclass(frozen=True, kw_only=True)
class Packing:
    """A mixture of tasks as the batches of (`num_sequences`, `seq_len`) tokens that its epochs fill.

    `num_epochs` is that of the mixture. `Packing.of` gives the packing that a phase reads.
    """

    mixture: TaskMixture
    tokenizer: Tokenizer | ReleasedTokenizer
    seq_len: int
    num_sequences: int
    seed: int
    num_epochs: int | None = None

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_kind("packing.mixture", self.mixture, TaskMixture, expected="a TaskMixture")
        require_positive("packing.seq_len", self.seq_len, unit="tokens")
        require_positive("packing.num_sequences", self.num_sequences, unit="sequences")
        require_whole("packing.seed", self.seed, what="a seed")
        self.mixture.require_rows("packing.num_sequences", self.num_sequences)
        if self.num_epochs is None:
            object.__setattr__(self, "num_epochs", self.mixture.num_epochs)
        if self.num_epochs != self.mixture.num_epochs:
            expected = f"{self.mixture.num_epochs}, as in the mixture"
            raise RecipeError("packing.num_epochs", expected=expected, got=self.num_epochs)

    @classmethod
    def of(cls, phase: Phase, tokenizer: Tokenizer | ReleasedTokenizer) -> Packing:
        """Return the packing that a phase on a mixture of tasks reads.

        Raises:
            RecipeError: the phase has other data.
        """
        require_kind(f"phases.{phase.name}.data", phase.data, TaskMixture, expected="a TaskMixture")
        assert isinstance(phase.data, TaskMixture)
        return cls(
            mixture=phase.data,
            tokenizer=tokenizer,
            seq_len=phase.seq_len,
            num_sequences=phase.num_sequences,
            seed=phase.seed,
        )

    @property
    def id(self) -> str:
        return identify(self)

    @property
    def tokenized(self) -> tuple[TokenizedData, ...]:
        """The token stages that it reads, in the order of the mixture's parts."""
        return tuple(TokenizedData(data=task, tokenizer=self.tokenizer) for task in self.mixture.tasks)
