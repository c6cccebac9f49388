"""Run a model over new tokens only: keys and values of earlier tokens are kept, for generation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from midstudy.model.attention import for_every_query
from midstudy.model.language_model import Block, LanguageModel


class KeyValueCache:
    """The rotated keys and the values of all tokens so far, one tensor of each per layer.

    Args:
        num_rows: number of sequences.
        length: the most tokens of a sequence, at most the model's context.
    """

    def __init__(self, model: LanguageModel, *, num_rows: int, length: int) -> None:
        shape, dtype, device = model.shape, model.compute_type, model.device
        size = (shape.num_layers, num_rows, shape.num_kv_heads, length, shape.head_size)
        self.keys, self.values = (torch.zeros(size, dtype=dtype, device=device) for _ in range(2))
        self.tables = model.rotary(length, device)
        self.head = model.head_weight.detach()  # rounded once if it is a tied embedding of a higher precision

    def keep(self, rows: Tensor) -> None:
        """Drop all sequences but `rows`, int64 indices."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]


@torch.no_grad()
def cached_logits(
    model: LanguageModel, input_ids: Tensor, positions: Tensor, cache: KeyValueCache, *, last: Tensor | None = None
) -> Tensor:
    """Return the logits after one of the new tokens of each row, fp32 of shape (num_rows, vocab_size).

    The cache takes the tokens in. Rows may have different lengths: where new tokens are padded on the right, the padding
    takes positions that the row's later tokens overwrite, and nothing before sees it.

    Args:
        input_ids: (num_rows, num_new) int64.
        positions: (num_rows, num_new) int64, the place of each token in its sequence. All earlier places of the row have
            been read before, or are in this call.
        last: (num_rows,) int64, the new token after which to predict; `None` for the last one.
    """
    x = model.embedding(input_ids).to(model.compute_type)
    seen = int(positions.max()) + 1
    cos, sin = (table[positions][:, None] for table in cache.tables)
    hidden_keys = torch.arange(seen, device=positions.device) > positions[:, None, :, None]
    mask = torch.zeros(hidden_keys.shape, dtype=x.dtype, device=x.device).masked_fill_(hidden_keys, float("-inf"))
    rows = torch.arange(len(input_ids), device=positions.device)[:, None]
    for number, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        query, key, value = block.project(x, cos, sin)
        keys, values = cache.keys[number], cache.values[number]
        keys[rows, :, positions], values[rows, :, positions] = key.transpose(1, 2), value.transpose(1, 2)
        keys, values = (for_every_query(one[:, :, :seen], query) for one in (keys, values))
        scores = (query @ keys.transpose(2, 3)).mul_(query.shape[-1] ** -0.5).add_(mask)
        mixed = scores.softmax(dim=-1) @ values
        x = block.feed_forward(x, block.attention_out(mixed.transpose(1, 2).flatten(2)))
    chosen = x[:, -1] if last is None else x[rows[:, 0], last]
    logits = F.linear(model.final_norm(chosen), cache.head)
    return logits.float()
