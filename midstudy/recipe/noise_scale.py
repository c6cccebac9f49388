"""Recipe of an evaluation of the gradient noise scale: how alike the gradients of a state's sequences of a corpus are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from midstudy.recipe import versions
from midstudy.recipe.data import SPLITS, Corpus
from midstudy.recipe.errors import RecipeError, require_choice, require_positive, require_whole
from midstudy.recipe.metric import Metric
from midstudy.recipe.plain import hold_plain_numbers

NOISE_SCALE = Metric(name="noise_scale_sequences", unit="sequences", better="lower")
GRADIENT_NOISE_TRACE = Metric(name="gradient_noise_trace", unit="squared nats per token", better="lower")
GRADIENT_SQUARED_NORM = Metric(name="gradient_squared_norm", unit="squared nats per token", better="lower")

FORWARDS_OF_A_GRADIENT = 3
"""Cost of a forward and a backward pass, in forward passes."""


@dataclass(frozen=True, kw_only=True)
class NoiseScale:
    """The gradient noise scale of a state on blocks of a corpus's split, at fixed weights.

    B = tr(Σ) / |G|² (McCandlish et al., arXiv 1812.06162, appendix A): Σ is the covariance of the gradient of one block of
    `seq_len` tokens, G the gradient of the split; both of the mean loss over all tokens of the block. B is roughly the batch
    size, in sequences, beyond which larger batches bring little. Blocks are drawn by `seed` without replacement:
    `num_batches` batches of `large` blocks, each cut into batches of `small`. The squared norms of the two sizes give
    unbiased estimates of tr(Σ) and |G|², whose means over the batches are divided.

    Metrics: `noise_scale_sequences`, not finite where the estimate of |G|² is not above 0 (more batches help);
    `gradient_noise_trace`, tr(Σ), and `gradient_squared_norm`, |G|².
    """

    METRICS: ClassVar[tuple[Metric, ...]] = (NOISE_SCALE, GRADIENT_NOISE_TRACE, GRADIENT_SQUARED_NORM)
    other: ClassVar[None] = None
    other_id: ClassVar[None] = None
    target_only: ClassVar[bool] = False
    document_mask: ClassVar[bool] = False

    data: Corpus
    split: str
    seq_len: int
    num_batches: int
    small: int
    large: int
    seed: int
    version: int = versions.NOISE_SCALE

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        path = f"noise_scale.{self.data.name}"
        if not isinstance(self.data, Corpus):
            raise RecipeError(f"{path}.data", expected="a corpus", got=f"{self.data.name}, {self.data.origin}")
        require_choice(f"{path}.split", self.split, SPLITS)
        for name, unit in (
            ("seq_len", "tokens"),
            ("num_batches", "batches"),
            ("small", "sequences"),
            ("large", "sequences"),
        ):
            require_positive(f"{path}.{name}", getattr(self, name), unit=unit)
        if self.large <= self.small or self.large % self.small:
            expected = f"a multiple of small, {self.small} sequences, and larger"
            raise RecipeError(f"{path}.large", expected=expected, got=self.large)
        require_whole(f"{path}.seed", self.seed, what="a seed")

    @property
    def max_sequences(self) -> int:
        """The blocks that are read."""
        return self.num_batches * self.large

    @property
    def reported(self) -> tuple[Metric, ...]:
        """The metrics that the record will hold."""
        return self.METRICS

    @property
    def num_tokens(self) -> int:
        """The tokens that the model processes, a gradient counted as `FORWARDS_OF_A_GRADIENT` forward passes; the
        evaluation's cost follows from it."""
        return FORWARDS_OF_A_GRADIENT * self.max_sequences * self.seq_len
