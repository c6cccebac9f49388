"""Pythia (GPT-NeoX): parallel residual, two LayerNorms, fused QKV, partial rotary embedding, exact GELU, untied head.

Source: EleutherAI/pythia `models/*/pythia-*.yml` and the paper's fork of litgpt. Logits equal those of transformers'
`GPTNeoXForCausalLM` with the same weights (`tests/model/test_pythia.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midstudy.model.attention import causal_attention, document_mask
from midstudy.model.config import LAYER_NORM_EPSILON
from midstudy.model.cross_entropy import head_token_losses, scaled_head_loss
from midstudy.model.narrow_block import is_narrow, narrow_block
from midstudy.model.rotary import rotary_tables, split_heads
from midstudy.recipe.model import ModelShape


class Block(nn.Module):
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

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        """Return attention(norm1(x)), of shape (batch, length, width)."""
        query, key, value = split_heads(self.qkv(self.attention_norm(x)), num_heads=self.num_heads, cos=cos, sin=sin)
        mixed = causal_attention(query, key, value, mask).transpose(1, 2).reshape(x.shape)
        attended: Tensor = self.attention_out(mixed)
        return attended

    def feed_forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return x + attended + mlp(norm2(x)), of shape (batch, length, width)."""
        return x + attended + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x))))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map (batch, length, width) to the same shape; for `cos`, `sin` and `mask` see `narrow_block`."""
        if is_narrow(x):
            return narrow_block(x, cos, sin, mask, num_heads=self.num_heads, parameters=[*self.parameters()])
        return self.feed_forward(x, self.attend(x, cos, sin, mask))


class Pythia(nn.Module):
    """A GPT-NeoX language model of a given shape; `initialise.py` and `huggingface.py` set its weights.

    The computation runs in the precision of the head's weights. The embedding may have a higher precision: its rows are
    rounded after the look-up, and its gradient accumulates in the higher precision.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab_size, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.num_layers))
        self.final_norm = nn.LayerNorm(shape.width, eps=LAYER_NORM_EPSILON)
        self.head = nn.Linear(shape.width, shape.vocab_size, bias=False)

    @classmethod
    def empty(cls, shape: ModelShape, *, device: torch.device | str = "cpu") -> Pythia:
        """Return a model whose fp32 weights are allocated but not initialised; the caller must set them."""
        with torch.device("meta"):
            model = cls(shape)
        return model.to_empty(device=device)

    def hidden(self, input_ids: Tensor, documents: Tensor | None = None) -> Tensor:
        """Return the hidden states after the last LayerNorm.

        Args:
            input_ids: (batch, length) int64, length at most `shape.max_seq_len`.
            documents: (batch, length) integers, the document of each position; attention stays inside a document. `None`
                means one document per row. Since rotary embedding is relative, positions continue across documents.

        Returns:
            (batch, length, width).

        Raises:
            ValueError: a sequence is longer than the model's context.
        """
        x, context = self._embedded(input_ids, documents)
        for block in self.blocks:
            x = block(x, *context)
        return self.final_norm(x)

    def hidden_states(self, input_ids: Tensor, documents: Tensor | None = None) -> list[Tensor]:
        """Return the embedding's output and the output of every block, the last one after the last LayerNorm.

        These are the `hidden_states` of transformers' GPT-NeoX. For arguments and errors see `hidden`.

        Returns:
            num_layers + 1 tensors of shape (batch, length, width).
        """
        x, context = self._embedded(input_ids, documents)
        states = [x]
        for block in self.blocks:
            states.append(block(states[-1], *context))
        return [*states[:-1], self.final_norm(states[-1])]

    def _embedded(self, input_ids: Tensor, documents: Tensor | None) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor | None]]:
        """Return the input of the first block, and what every block takes besides: `cos`, `sin` and `mask`."""
        length = input_ids.shape[1]
        if length > self.shape.max_seq_len:
            raise ValueError(f"expected sequences of at most {self.shape.max_seq_len} tokens, the context, got {length}.")
        cos, sin = rotary_tables(length, self.shape.rotary_dims, self.shape.rotary_base, input_ids.device)
        x = self.embedding(input_ids).to(self.head.weight.dtype)
        return x, (cos, sin, None if documents is None else document_mask(documents, x.dtype))

    def forward(self, input_ids: Tensor, documents: Tensor | None = None) -> Tensor:
        """Return the logits, (batch, length, vocab_size), of token ids, (batch, length)."""
        return self.head(self.hidden(input_ids, documents))

    def scaled_loss(
        self,
        input_ids: Tensor,
        targets: Tensor,
        *,
        scale: float,
        weights: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Return `scale` times the weighted sum of cross entropy in nats over targets other than -100, differentiable.

        Args:
            input_ids: (batch, length) int64.
            targets: (batch, length) int64, the token that each position predicts; -100 has no loss.
            scale: factor on loss and gradient; 1 / (sum of the targets' weights) gives the weighted mean.
            weights: (batch, length) fp32, the weight of each target; `None` is 1 for all.
            documents: as in `hidden`.
        """
        hidden = self.hidden(input_ids, documents).flatten(0, 1)
        token_weights = None if weights is None else weights.flatten()
        return scaled_head_loss(hidden, self.head.weight, targets.flatten(), scale=scale, token_weights=token_weights)

    def token_losses(self, input_ids: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        """Return the cross entropy in nats of each position, fp32 (batch, length); 0 where the target is -100."""
        hidden = self.hidden(input_ids, documents).flatten(0, 1)
        return head_token_losses(hidden, self.head.weight, targets.flatten()).view(targets.shape)
