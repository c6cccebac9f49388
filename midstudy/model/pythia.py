"""Pythia (GPT-NeoX): parallel residual, two LayerNorms, fused QKV, partial rotary embedding, exact GELU, untied head.

Source: EleutherAI/pythia `models/*/pythia-*.yml` and the paper's fork of litgpt. Logits equal those of transformers'
`GPTNeoXForCausalLM` with the same weights (`tests/model/test_pythia.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midstudy.model.language_model import Block, LanguageModel
from midstudy.model.narrow_block import is_narrow, narrow_block
from midstudy.model.neox_config import LAYER_NORM_EPSILON
from midstudy.model.rotary import rotary_tables, split_heads
from midstudy.recipe.model import ModelShape


class PythiaBlock(Block):
    """x + attention(norm1(x)) + mlp(norm2(x))."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        width = shape.width
        self.num_heads = shape.num_heads
        self.attention_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return split_heads(self.qkv(self.attention_norm(x)), num_heads=self.num_heads, cos=cos, sin=sin)

    def feed_forward(self, x: Tensor, attended: Tensor) -> Tensor:
        return x + attended + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x))))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None = None) -> Tensor:
        if is_narrow(x):
            return narrow_block(x, cos, sin, mask, num_heads=self.num_heads, parameters=[*self.parameters()])
        return super().forward(x, cos, sin, mask)


class Pythia(LanguageModel):
    """A GPT-NeoX language model of a given shape."""

    shape: ModelShape

    def __init__(self, shape: ModelShape) -> None:
        blocks = (PythiaBlock(shape) for _ in range(shape.num_layers))
        super().__init__(shape, blocks, nn.LayerNorm(shape.width, eps=LAYER_NORM_EPSILON))

    def rotary(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        return rotary_tables(length, self.shape.rotary_dims, self.shape.rotary_base, device)
