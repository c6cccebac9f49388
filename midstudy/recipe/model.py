"""Model shapes: Pythia (GPT-NeoX) from 14M to 1B as published, and two micro shapes for laptops.

Source: EleutherAI/pythia `models/*/pythia-*.yml`. The micro shapes are this project's.
"""

from __future__ import annotations

from dataclasses import dataclass

from midstudy.recipe import versions
from midstudy.recipe.canonical import label_field
from midstudy.recipe.errors import RecipeError, require_name, require_positive
from midstudy.recipe.plain import hold_plain_numbers

PYTHIA_VOCABULARY = 50_304
"""Pythia's 50,254 entries padded to a multiple of 128, the same for all sizes."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Shape of a GPT-NeoX model: parallel residual, two LayerNorms, untied embeddings, biases everywhere but in the head."""

    name: str = label_field()
    num_layers: int
    width: int
    num_heads: int
    vocab_size: int
    rotary_fraction: float = 0.25
    rotary_base: float = 10_000.0
    max_seq_len: int = 2_048
    version: int = versions.MODEL

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_name("model.name", self.name)
        for field in ("num_layers", "width", "num_heads", "vocab_size", "max_seq_len"):
            require_positive(f"model.{field}", getattr(self, field), unit="units")
        if self.width % self.num_heads or (self.width // self.num_heads) % 2:
            raise RecipeError(
                "model.num_heads",
                expected=f"a divisor of the width {self.width} that leaves an even head size",
                got=self.num_heads,
            )
        if not 0 < self.rotary_fraction <= 1 or self.rotary_dims < 2 or self.rotary_dims % 2:
            raise RecipeError(
                "model.rotary_fraction",
                expected="a share of the head size in (0, 1] that gives an even number of rotated dimensions, at least 2",
                got=self.rotary_fraction,
            )

    @property
    def head_size(self) -> int:
        return self.width // self.num_heads

    @property
    def num_kv_heads(self) -> int:
        """Every query has a key and a value of its own."""
        return self.num_heads

    @property
    def is_tied(self) -> bool:
        """Whether the output head is the embedding."""
        return False

    @property
    def rotary_dims(self) -> int:
        return int(self.head_size * self.rotary_fraction)

    @property
    def num_parameters_non_embedding(self) -> int:
        """All parameters except the embedding and the head; 18,915,328 for 70M."""
        d = self.width
        attention = 3 * d * d + 3 * d + d * d + d
        mlp = 4 * d * d + 4 * d + 4 * d * d + d
        return self.num_layers * (attention + mlp + 4 * d) + 2 * d

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """Rows and columns of a block's matrices: query, key, value, output of attention, and the MLP's two."""
        d = self.width
        return [(d, d)] * 4 + [(4 * d, d), (d, 4 * d)]

    @property
    def num_parameters_of_matrices(self) -> int:
        """The parameters of all blocks' matrices: 12 width² a block; 18,874,368 for 70M."""
        return self.num_layers * 12 * self.width**2

    @property
    def num_parameters(self) -> int:
        """All parameters; 70,426,624 for 70M."""
        return self.num_parameters_non_embedding + 2 * self.vocab_size * self.width

    def flops_per_token(self, *, seq_len: int) -> float:
        """Return training FLOPs per token, forward and backward.

        6 per matmul parameter plus 12·layers·width·seq_len for attention. The embedding look-up is not a matmul and is not
        counted (PaLM, appendix B; nanoGPT counts the same way).
        """
        matmul_parameters = self.num_parameters - self.vocab_size * self.width
        return 6.0 * matmul_parameters + 12.0 * self.num_layers * self.width * seq_len


_PYTHIA = {  # name: layers, width, heads
    "14m": (6, 128, 4),
    "31m": (6, 256, 8),
    "70m": (6, 512, 8),
    "160m": (12, 768, 12),
    "410m": (24, 1024, 16),
    "1b": (16, 2048, 8),
}
_MICRO = {"pico": (1, 16, 1), "nano": (2, 64, 4), "micro": (4, 128, 4)}
SIZES = (*_MICRO, *_PYTHIA)


def pythia(size: str, *, vocab_size: int = PYTHIA_VOCABULARY, max_seq_len: int = 2_048) -> ModelShape:
    """Return the shape called `size`: `pico`, `nano` or `micro` (this project's), or `14m` to `1b` (Pythia's).

    Raises:
        RecipeError: `size` is not one of `SIZES`.
    """
    shapes = _MICRO | _PYTHIA
    if size not in shapes:
        raise RecipeError("model.size", expected=f"one of {', '.join(shapes)}", got=size)
    num_layers, width, num_heads = shapes[size]
    return ModelShape(
        name=size,
        num_layers=num_layers,
        width=width,
        num_heads=num_heads,
        vocab_size=vocab_size,
        max_seq_len=max_seq_len,
    )
