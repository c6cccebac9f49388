"""What all architectures share: embedding, blocks, a last norm and a head, the loss, and hidden states.

A subclass builds the blocks and the norm, and says how positions are rotated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midstudy.model.attention import causal_attention, document_mask
from midstudy.model.cross_entropy import head_token_losses, scaled_head_loss
from midstudy.recipe.shape import AnyShape


class Block(nn.Module, ABC):
    """One layer: attention, and a feed-forward part that adds it to the residual sum."""

    attention_out: nn.Linear

    @abstractmethod
    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries, rotated keys and values of (batch, length, width).

        Returns:
            (batch, num_heads, length, head_size), and twice (batch, num_kv_heads, length, head_size).
        """

    @abstractmethod
    def feed_forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return the block's output, of shape (batch, length, width), from its input and that of `attend`."""

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        """Return what attention adds to the residual sum, of shape (batch, length, width)."""
        query, key, value = self.project(x, cos, sin)
        mixed = causal_attention(query, key, value, mask).transpose(1, 2).flatten(2)
        attended: Tensor = self.attention_out(mixed)
        return attended

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map (batch, length, width) to the same shape.

        Args:
            cos, sin: `rotary_tables` for this length.
            mask: `document_mask` if rows hold several documents.
        """
        return self.feed_forward(x, self.attend(x, cos, sin, mask))


class LanguageModel(nn.Module, ABC):
    """A language model of a given shape; `initialise.py` and `huggingface.py` set its weights.

    The computation runs in the precision of the last norm's weights. The embedding may have a higher precision: its rows
    are rounded after the look-up, and its gradient accumulates in the higher precision. A tied model has no `head`.
    """

    shape: AnyShape
    head: nn.Linear

    def __init__(self, shape: AnyShape, blocks: Iterable[Block], final_norm: nn.LayerNorm | nn.RMSNorm) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab_size, shape.width)
        self.blocks = nn.ModuleList(blocks)
        self.final_norm = final_norm
        if not shape.is_tied:
            self.head = nn.Linear(shape.width, shape.vocab_size, bias=False)

    @abstractmethod
    def rotary(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the `rotary_tables` of the first `length` positions."""

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    @property
    def compute_type(self) -> torch.dtype:
        """The dtype of the forward and backward passes."""
        return self.final_norm.weight.dtype

    @property
    def head_weight(self) -> Tensor:
        """The output head, (vocab_size, width), in the precision of the computation."""
        return self.embedding.weight.to(self.compute_type) if self.shape.is_tied else self.head.weight

    def hidden(self, input_ids: Tensor, documents: Tensor | None = None) -> Tensor:
        """Return the hidden states after the last norm.

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
        """Return the embedding's output and the output of every block, the last one after the last norm.

        These are the `hidden_states` of transformers' models. For arguments and errors see `hidden`.

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
        cos, sin = self.rotary(length, input_ids.device)
        x = self.embedding(input_ids).to(self.compute_type)
        return x, (cos, sin, None if documents is None else document_mask(documents, x.dtype))

    def forward(self, input_ids: Tensor, documents: Tensor | None = None) -> Tensor:
        """Return the logits, (batch, length, vocab_size), of token ids, (batch, length)."""
        return F.linear(self.hidden(input_ids, documents), self.head_weight)

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
        return scaled_head_loss(hidden, self.head_weight, targets.flatten(), scale=scale, token_weights=token_weights)

    def token_losses(self, input_ids: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        """Return the cross entropy in nats of each position, fp32 (batch, length); 0 where the target is -100."""
        hidden = self.hidden(input_ids, documents).flatten(0, 1)
        return head_token_losses(hidden, self.head_weight, targets.flatten()).view(targets.shape)
