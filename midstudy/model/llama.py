"""Llama: sequential residuals, RMSNorm, SwiGLU, grouped queries, rotary embedding of whole heads, a tied or untied head.

Source: Touvron et al., 2023 (arXiv 2302.13971) and Grattafiori et al., 2024 (arXiv 2407.21783). Qwen 2 has biases in its
projections of queries, keys and values (Yang et al., 2024, arXiv 2407.10671), Qwen 3 an RMSNorm over each of their heads
instead (Yang et al., 2025, arXiv 2505.09388). Logits equal those of transformers' `LlamaForCausalLM`, `Qwen2ForCausalLM`
and `Qwen3ForCausalLM` with the same weights (`tests/model/test_llama.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midstudy.model.language_model import Block, LanguageModel
from midstudy.model.rotary import rotary_tables, rotated
from midstudy.recipe.llama_shape import LlamaShape


class LlamaBlock(Block):
    """y + mlp(norm2(y)), where y = x + attention(norm1(x))."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        width, queries, keys = shape.width, shape.num_heads * shape.head_size, shape.num_kv_heads * shape.head_size
        has_biases, has_norms = shape.attention == "qkv_biases", shape.attention == "qk_norms"
        self.head_size = shape.head_size
        self.attention_norm = nn.RMSNorm(width, eps=shape.norm_epsilon)
        self.query = nn.Linear(width, queries, bias=has_biases)
        self.key = nn.Linear(width, keys, bias=has_biases)
        self.value = nn.Linear(width, keys, bias=has_biases)
        self.query_norm = nn.RMSNorm(shape.head_size, eps=shape.norm_epsilon) if has_norms else nn.Identity()
        self.key_norm = nn.RMSNorm(shape.head_size, eps=shape.norm_epsilon) if has_norms else nn.Identity()
        self.attention_out = nn.Linear(queries, width, bias=False)
        self.mlp_norm = nn.RMSNorm(width, eps=shape.norm_epsilon)
        self.mlp_gate = nn.Linear(width, shape.mlp_width, bias=False)
        self.mlp_in = nn.Linear(width, shape.mlp_width, bias=False)
        self.mlp_out = nn.Linear(shape.mlp_width, width, bias=False)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        normal, size = self.attention_norm(x), (-1, self.head_size)
        query = self.query_norm(self.query(normal).unflatten(-1, size)).transpose(1, 2)
        key = self.key_norm(self.key(normal).unflatten(-1, size)).transpose(1, 2)
        return rotated(query, cos, sin), rotated(key, cos, sin), self.value(normal).unflatten(-1, size).transpose(1, 2)

    def feed_forward(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + attended
        normal = self.mlp_norm(x)
        return x + self.mlp_out(F.silu(self.mlp_gate(normal)) * self.mlp_in(normal))


class Llama(LanguageModel):
    """A language model of the Llama family of a given shape."""

    shape: LlamaShape

    def __init__(self, shape: LlamaShape) -> None:
        blocks = (LlamaBlock(shape) for _ in range(shape.num_layers))
        super().__init__(shape, blocks, nn.RMSNorm(shape.width, eps=shape.norm_epsilon))

    def rotary(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        return rotary_tables(length, self.shape.head_size, self.shape.rotary_base, device, self.shape.rotary_scaling)
