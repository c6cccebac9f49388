"""Shapes of the Llama family: Llama 3 as published, Qwen 2 and Qwen 3 by two switches, and two micro shapes for laptops.

Source: Grattafiori et al., 2024, "The Llama 3 Herd of Models" (arXiv 2407.21783), and the `config.json` of
meta-llama/Meta-Llama-3-8B and meta-llama/Llama-3.2-1B. The micro shapes are this project's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from midstudy.recipe import versions
from midstudy.recipe.canonical import label_field
from midstudy.recipe.errors import (
    RecipeError,
    require_choice,
    require_flag,
    require_kind,
    require_name,
    require_number,
    require_positive,
)
from midstudy.recipe.plain import hold_plain_numbers

LLAMA_3_VOCABULARY = 128_256


@dataclass(frozen=True, kw_only=True)
class RotaryScaling:
    """Llama 3.1's change of the rotary frequencies for a longer context.

    Wavelengths above `original_seq_len / low_frequency_factor` become `factor` times as long, those below
    `original_seq_len / high_frequency_factor` stay, and frequencies in between are interpolated.
    """

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_seq_len: int

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        path = "model.rotary_scaling"
        require_number(f"{path}.factor", self.factor, 1)
        require_positive(f"{path}.original_seq_len", self.original_seq_len, unit="tokens")
        require_number(f"{path}.low_frequency_factor", self.low_frequency_factor, 0)
        require_number(f"{path}.high_frequency_factor", self.high_frequency_factor, 0)
        if not 0 < self.low_frequency_factor < self.high_frequency_factor:
            raise RecipeError(
                f"{path}.high_frequency_factor",
                expected=f"more than low_frequency_factor, {self.low_frequency_factor}, which is above 0",
                got=self.high_frequency_factor,
            )


@dataclass(frozen=True, kw_only=True)
class LlamaShape:
    """Shape of a Llama: sequential residuals, RMSNorm, SwiGLU, grouped queries, whole heads rotated, no biases.

    Each of the `num_kv_heads` keys and values serves `num_heads / num_kv_heads` queries. If the model `is_tied`, its output
    head is the embedding. `attention` is `plain` in Llama; `qkv_biases` (Qwen 2) adds biases to queries, keys and values;
    `qk_norms` (Qwen 3) adds an RMSNorm over each head's queries and keys, before they are rotated.
    """

    name: str = label_field()
    num_layers: int
    width: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    mlp_width: int
    vocab_size: int
    max_seq_len: int
    rotary_base: float = 10_000.0
    rotary_scaling: RotaryScaling | None = None
    norm_epsilon: float = 1e-5
    is_tied: bool = False
    attention: str = "plain"
    version: int = versions.LLAMA

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_name("model.name", self.name)
        sizes = ("num_layers", "width", "num_heads", "num_kv_heads", "head_size", "mlp_width", "vocab_size", "max_seq_len")
        for field in sizes:
            require_positive(f"model.{field}", getattr(self, field), unit="units")
        if self.num_heads % self.num_kv_heads:
            raise RecipeError(
                "model.num_kv_heads", expected=f"a divisor of the {self.num_heads} heads", got=self.num_kv_heads
            )
        if self.head_size % 2:
            raise RecipeError("model.head_size", expected="an even number, of rotated pairs", got=self.head_size)
        for field in ("rotary_base", "norm_epsilon"):
            require_number(f"model.{field}", getattr(self, field), 0)
            if not getattr(self, field):
                raise RecipeError(f"model.{field}", expected="a number above 0", got=getattr(self, field))
        expected = "None, or a RotaryScaling"
        require_kind("model.rotary_scaling", self.rotary_scaling, RotaryScaling | None, expected=expected)
        require_flag("model.is_tied", self.is_tied)
        require_choice("model.attention", self.attention, ("plain", "qkv_biases", "qk_norms"))

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """Rows and columns of a block's matrices: query, key, value, output of attention, and the MLP's three."""
        queries, keys = self.num_heads * self.head_size, self.num_kv_heads * self.head_size
        attention = [(queries, self.width), (keys, self.width), (keys, self.width), (self.width, queries)]
        return [*attention, (self.mlp_width, self.width), (self.mlp_width, self.width), (self.width, self.mlp_width)]

    @property
    def num_parameters_of_matrices(self) -> int:
        """The parameters of all blocks' matrices."""
        return self.num_layers * sum(rows * columns for rows, columns in self.matrices)

    @property
    def num_parameters_non_embedding(self) -> int:
        """All parameters except the embedding and the head."""
        vectors = 2 * self.width
        if self.attention == "qkv_biases":
            vectors += (self.num_heads + 2 * self.num_kv_heads) * self.head_size
        elif self.attention == "qk_norms":
            vectors += 2 * self.head_size
        return self.num_parameters_of_matrices + self.num_layers * vectors + self.width

    @property
    def num_parameters(self) -> int:
        """All parameters; 8,030,261,248 for Llama 3 8B. A tied embedding counts once."""
        return self.num_parameters_non_embedding + (1 if self.is_tied else 2) * self.vocab_size * self.width

    def flops_per_token(self, *, seq_len: int) -> float:
        """Return training FLOPs per token, forward and backward.

        6 per matmul parameter plus 12·layers·heads·head_size·seq_len for attention, as for GPT-NeoX (PaLM, appendix B). A
        tied embedding is a matmul as the head, and not as the look-up. Grouped queries save memory, but no products.
        """
        matmul_parameters = self.num_parameters_non_embedding + self.vocab_size * self.width
        return 6.0 * matmul_parameters + 12.0 * self.num_layers * self.num_heads * self.head_size * seq_len


def _micro(name: str, *, num_layers: int, width: int, mlp_width: int) -> LlamaShape:
    """Return a shape with the layers, width and heads of the Pythia-like shape of that size, and half as many keys."""
    return LlamaShape(
        name=name,
        num_layers=num_layers,
        width=width,
        num_heads=4,
        num_kv_heads=2,
        head_size=width // 4,
        mlp_width=mlp_width,  # 8/3 of the width, as in Llama 1, rounded up to a multiple of 16
        vocab_size=LLAMA_3_VOCABULARY,
        max_seq_len=2_048,
    )


_SHAPES = {
    "nano": _micro("llama-nano", num_layers=2, width=64, mlp_width=176),
    "micro": _micro("llama-micro", num_layers=4, width=128, mlp_width=352),
    "3.2-1b": LlamaShape(
        name="llama-3.2-1b",
        num_layers=16,
        width=2_048,
        num_heads=32,
        num_kv_heads=8,
        head_size=64,
        mlp_width=8_192,
        vocab_size=LLAMA_3_VOCABULARY,
        max_seq_len=131_072,
        rotary_base=500_000.0,
        rotary_scaling=RotaryScaling(
            factor=32.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_seq_len=8_192
        ),
        is_tied=True,
    ),
    "3-8b": LlamaShape(
        name="llama-3-8b",
        num_layers=32,
        width=4_096,
        num_heads=32,
        num_kv_heads=8,
        head_size=128,
        mlp_width=14_336,
        vocab_size=LLAMA_3_VOCABULARY,
        max_seq_len=8_192,
        rotary_base=500_000.0,
    ),
}
LLAMA_SIZES = tuple(_SHAPES)


def llama(size: str, *, vocab_size: int | None = None, max_seq_len: int | None = None) -> LlamaShape:
    """Return the shape called `llama-SIZE`: `nano` or `micro` (this project's), or `3.2-1b` or `3-8b` (Llama's).

    Args:
        vocab_size: `None` for Llama 3's.
        max_seq_len: `None` for the published context, and 2,048 tokens for the micro shapes.

    Raises:
        RecipeError: `size` is not one of `LLAMA_SIZES`.
    """
    if size not in _SHAPES:
        raise RecipeError("model.size", expected=f"one of {', '.join(LLAMA_SIZES)}", got=size)
    shape = _SHAPES[size]
    return replace(
        shape,
        vocab_size=shape.vocab_size if vocab_size is None else vocab_size,
        max_seq_len=shape.max_seq_len if max_seq_len is None else max_seq_len,
    )
