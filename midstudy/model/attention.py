"""Causal attention: blocks of matrix products and a softmax on a CPU, PyTorch's fused kernels on other devices.

On a CPU in bfloat16, the backward pass of PyTorch's flash attention takes more time than anything else in a training step;
in fp32 it is slower than plain products too. Each block of queries skips all later keys, which saves up to half of the work.

A document mask is added to the scores. PyTorch's flash kernels do not support such a mask, so other devices then use its
memory-efficient kernel or plain products.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK, _BLOCK_OF_BFLOAT16 = 64, 128
"""Queries per block: fewer make the products inefficiently small, more waste work on later keys."""


def is_plain(scored: Tensor) -> bool:
    """Return whether attention over tensors like this one uses plain products instead of a fused kernel."""
    return scored.device.type == "cpu"


@lru_cache(maxsize=32)
def _causal_mask(length: int, dtype: torch.dtype) -> Tensor:
    """Return (length, length) on the CPU: 0 where a query may attend, -inf elsewhere."""
    return torch.full((length, length), float("-inf"), dtype=dtype).triu_(1)


def document_mask(documents: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the mask that keeps attention causal and inside documents; it is computed once for all layers.

    Args:
        documents: (batch, length) integers, the document of each position.
        dtype: type of the scores.

    Returns:
        (batch, 1, length, length): 0 where a query may attend, -inf elsewhere.
    """
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return torch.zeros(same.shape, dtype=dtype, device=same.device).masked_fill_(~same.tril(), float("-inf"))


def _probabilities(query: Tensor, key: Tensor, causal: Tensor, mask: Tensor | None) -> Tensor:
    """Return the attention probabilities, (batch * num_heads, num_queries, num_keys).

    Args:
        query, key: (batch * num_heads, num_queries, head_size) and (batch * num_heads, num_keys, head_size).
        causal: (num_queries, num_keys), added to the scores.
        mask: (batch, 1, num_queries, num_keys), also added to the scores.
    """
    scores = torch.baddbmm(causal, query, key.transpose(1, 2), alpha=query.shape[-1] ** -0.5)
    if mask is not None:
        scores.view(len(mask), -1, *scores.shape[1:]).add_(mask)
    return scores.softmax(dim=-1)


def _blocks(length: int, dtype: torch.dtype) -> Iterator[slice]:
    size = _BLOCK_OF_BFLOAT16 if dtype == torch.bfloat16 else _BLOCK
    return (slice(first, min(first + size, length)) for first in range(0, length, size))


class _BlockedAttention(torch.autograd.Function):
    """Attention of (batch, num_heads, length, head_size); in memory the output is (batch, length, num_heads, head_size)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        batch, num_heads, length, head_size = query.shape
        causal = _causal_mask(length, query.dtype)
        flat_query, flat_key, flat_value = query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)
        mixed = query.new_empty(batch, length, num_heads, head_size).transpose(1, 2)
        kept = []
        for rows in _blocks(length, query.dtype):
            seen = slice(rows.stop)
            part = None if mask is None else mask[:, :, rows, seen]
            probabilities = _probabilities(flat_query[:, rows], flat_key[:, seen], causal[rows, seen], part)
            mixed[:, :, rows] = torch.bmm(probabilities, flat_value[:, seen]).unflatten(0, (batch, num_heads))
            kept.append(probabilities)
        ctx.save_for_backward(flat_query, flat_key, flat_value, *kept)
        return mixed

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, *kept = ctx.saved_tensors
        (upstream,) = upstreams
        batch, num_heads, length, head_size = upstream.shape
        scale = head_size**-0.5
        query_gradient = torch.empty_like(query)
        # Sums over blocks are in fp32, so that rounding errors do not grow with the number of blocks.
        sums = query.new_zeros(2, *query.shape, dtype=torch.promote_types(query.dtype, torch.float32))
        key_gradient, value_gradient = sums
        for rows, probabilities in zip(_blocks(length, query.dtype), kept, strict=True):
            seen = slice(rows.stop)
            arrived = upstream[:, :, rows].reshape(batch * num_heads, -1, head_size)
            value_gradient[:, seen] += torch.bmm(probabilities.transpose(1, 2), arrived)
            weighted = torch.bmm(arrived, value[:, seen].transpose(1, 2))
            scores = torch._softmax_backward_data(weighted, probabilities, -1, probabilities.dtype)
            query_gradient[:, rows] = torch.bmm(scores, key[:, seen]).mul_(scale)
            key_gradient[:, seen].add_(torch.bmm(scores.transpose(1, 2), query[:, rows]), alpha=scale)
        gradients = (query_gradient, key_gradient.to(key.dtype), value_gradient.to(value.dtype))
        first, second, third = (gradient.view(batch, num_heads, length, head_size) for gradient in gradients)
        return first, second, third, None


def for_every_query(heads: Tensor, query: Tensor) -> Tensor:
    """Return keys or values, (batch, num_kv_heads, ...), repeated for each of the query heads that share them."""
    groups = query.shape[1] // heads.shape[1]
    return heads if groups == 1 else heads.repeat_interleave(groups, dim=1)


def causal_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return softmax(query keyᵀ / sqrt(head_size)) value, where each position attends to itself and earlier positions.

    Args:
        query: (batch, num_heads, length, head_size).
        key, value: (batch, num_kv_heads, length, head_size); each serves num_heads / num_kv_heads queries in sequence.
        mask: `document_mask` if rows hold several documents.

    Returns:
        (batch, num_heads, length, head_size).
    """
    key, value = for_every_query(key, query), for_every_query(value, query)
    if not is_plain(query):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
    if torch.compiler.is_compiling():  # a loop over blocks would be compiled again for every length
        flat_query, flat_key, flat_value = query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)
        probabilities = _probabilities(flat_query, flat_key, _causal_mask(query.shape[2], query.dtype), mask)
        return torch.bmm(probabilities, flat_value).view(query.shape)
    mixed: Tensor = _BlockedAttention.apply(query, key, value, mask)
    return mixed
