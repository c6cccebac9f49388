"""A faster block for narrow models in fp32 on a CPU, with hand-written forward and backward passes.

In a narrow model, matrix products take little more time than the operations between them, which are bound by memory. Hence:

- A few sequences at a time pass through the block, in reused buffers, so that the output of each operation is still in a
  core's cache when the next one reads it.
- Both LayerNorms have the same input, which is normalised once. Their gains and biases, and the scale of the attention
  scores, are folded into the following weights, once for all tokens.
- The weights' rows are reordered for attention: queries, keys and values, with the two dimensions of each rotation adjacent.
  A rotation is then one complex product in place.
- Probabilities overwrite the scores, and the scores' gradient overwrites that of the probabilities. Both output products are
  added to the residual sum. GELU is recomputed in the backward pass, which is not slower than reading it from memory.

This is slower for wide models, whose weights are not smaller than their activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from midstudy.model.neox_config import LAYER_NORM_EPSILON

WIDEST = 256
"""Smallest width for which the plain block is used, because it is not slower."""

_ROWS = 512
"""Tokens that pass through a block together, per thread; the data between two products fits a core's cache."""

_QUERIES = 64
"""Queries per block; a block skips all keys after its last query."""

_aten = torch.ops.aten


def is_narrow(x: Tensor) -> bool:
    """Return whether models with activations like `x`, (..., width), use the blocks of this module."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[-1] <= WIDEST


@lru_cache(maxsize=32)
def _row_order(width: int, num_heads: int, rotary_dims: int) -> tuple[Tensor, Tensor]:
    """Return the permutation of the fused projection's rows to (query | key | value, head, dimension), and its inverse.

    The stored order is by head, then query, key and value. In queries and keys, dimension i of the first half of the rotated
    part is followed by dimension i of its second half; their product does not depend on the order of dimensions.
    """
    rows = torch.arange(3 * width).view(num_heads, 3, -1).transpose(0, 1)
    paired = torch.arange(rows.shape[-1])
    paired[:rotary_dims] = paired[:rotary_dims].view(2, -1).t().flatten()
    order = torch.stack((rows[0][:, paired], rows[1][:, paired], rows[2])).flatten()
    return order, order.argsort()


@lru_cache(maxsize=32)
def _later_keys(num_queries: int, dtype: torch.dtype) -> Tensor:
    """Return (num_queries, num_queries): 0 where a query may attend, -inf elsewhere."""
    return torch.full((num_queries, num_queries), float("-inf"), dtype=dtype).triu_(1)


def _rotate(heads: Tensor, turns: Tensor) -> None:
    """Rotate queries and keys of (3, batch, num_heads, length, head_size) in place by (length, rotary_dims / 2) turns."""
    part = heads[:2, ..., : 2 * turns.shape[-1]]
    torch.view_as_complex(part.unflatten(-1, (-1, 2))).mul_(turns)


def _attend(heads: Tensor, mask: Tensor | None, mixed: Tensor) -> list[Tensor]:
    """Write the attention of rotated, scaled heads (3, batch, num_heads, length, head_size) into `mixed`, without the 3.

    Returns:
        The probabilities, one tensor for each block of queries.
    """
    batch, num_heads, length, head_size = mixed.shape
    query, key, value = heads.flatten(1, 2)
    kept = []
    for first in range(0, length, _QUERIES):
        stop = min(first + _QUERIES, length)
        scores = torch.bmm(query[:, first:stop], key[:, :stop].transpose(1, 2))
        scores[:, :, first:] += _later_keys(stop - first, scores.dtype)
        if mask is not None:
            scores.view(batch, num_heads, -1, stop).add_(mask[:, :, first:stop, :stop])
        probabilities = torch.softmax(scores, dim=-1, out=scores)
        mixed[:, :, first:stop] = torch.bmm(probabilities, value[:, :stop]).view(batch, num_heads, -1, head_size)
        kept.append(probabilities)
    return kept


def _attend_backward(heads: Tensor, kept: Sequence[Tensor], upstream: Tensor, gradient: Tensor) -> None:
    """Write the gradient of `_attend` with respect to `heads` into `gradient`, given that of its output, `upstream`."""
    query, key, value = heads.flatten(1, 2)
    query_gradient, key_gradient, value_gradient = gradient.flatten(1, 2)
    upstream = upstream.flatten(0, 1)
    length = query.shape[1]
    for number, probabilities in reversed([*enumerate(kept)]):  # the last queries use all keys, so they initialise the sums
        rows, seen = slice(number * _QUERIES, probabilities.shape[2]), slice(probabilities.shape[2])
        arrived = upstream[:, rows]
        scores = torch.bmm(arrived, value[:, seen].transpose(1, 2))
        torch._softmax_backward_data(scores, probabilities, -1, scores.dtype, grad_input=scores)
        if seen.stop == length:
            torch.bmm(probabilities.transpose(1, 2), arrived, out=value_gradient)
            torch.bmm(scores.transpose(1, 2), query[:, rows], out=key_gradient)
        else:
            value_gradient[:, seen] += torch.bmm(probabilities.transpose(1, 2), arrived)
            key_gradient[:, seen] += torch.bmm(scores.transpose(1, 2), query[:, rows])
        query_gradient[:, rows] = torch.bmm(scores, key[:, seen])


def _joint(gain: Tensor, shift: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the linear layer that equals a norm's gain and shift followed by a linear layer."""
    return weight * gain, torch.addmv(bias, weight, shift)


def _apart(by_weight: Tensor, by_bias: Tensor, gain: Tensor, shift: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of gain, shift, weight and bias from those of the joint layer's weight and bias."""
    by_gain, by_shift = (by_weight * weight).sum(0), torch.mv(weight.t(), by_bias)
    return by_gain, by_shift, by_weight.mul_(gain).addr_(by_bias, shift), by_bias


class _NarrowBlock(torch.autograd.Function):
    """The block as one operation; parameters in the order of `narrow_block`, turns complex, (length, rotary_dims / 2)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, turns: Tensor, mask: Tensor | None, num_heads: int, num_rows: int, *parameters: Tensor
    ) -> Tensor:
        gain, shift, qkv, qkv_bias, out, out_bias, mlp_gain, mlp_shift, up, up_bias, down, down_bias = parameters
        batch, length, width = x.shape
        order, _ = _row_order(width, num_heads, 2 * turns.shape[-1])
        ordered = qkv[order]
        joint_qkv, joint_qkv_bias = _joint(gain, shift, ordered, qkv_bias[order])
        for queries in (joint_qkv[:width], joint_qkv_bias[:width]):
            queries *= (width // num_heads) ** -0.5
        joint_up, joint_up_bias = _joint(mlp_gain, mlp_shift, up, up_bias)
        both_biases = out_bias + down_bias
        at_once = min(batch, max(1, num_rows // length))
        fused, activated = (x.new_empty(at_once * length, times * width) for times in (3, 4))
        result = torch.empty_like(x)
        kept: list[Tensor] = []
        for first in range(0, batch, at_once):
            some = x[first : first + at_once]
            rows = len(some) * length
            normal, mean, inverse_deviation = torch.native_layer_norm(some, (width,), None, None, LAYER_NORM_EPSILON)
            flat = normal.view(rows, width)
            torch.mm(flat, joint_qkv.t(), out=fused[:rows]).add_(joint_qkv_bias)
            heads = fused[:rows].view(len(some), length, 3, num_heads, -1).permute(2, 0, 3, 1, 4).contiguous()
            _rotate(heads, turns)
            mixed = x.new_empty(len(some), length, num_heads, width // num_heads)
            part = None if mask is None else mask[first : first + at_once]
            probabilities = _attend(heads, part, mixed.transpose(1, 2))
            raised = torch.mm(flat, joint_up.t()).add_(joint_up_bias)
            _aten.gelu.out(raised, out=activated[:rows])
            total = torch.add(some, both_biases, out=result[first : first + at_once]).view(rows, width)
            total.addmm_(mixed.view(rows, width), out.t()).addmm_(activated[:rows], down.t())
            kept += (normal, mean, inverse_deviation, raised, heads, mixed, *probabilities)
        ctx.num_heads, ctx.at_once = num_heads, at_once
        weights = (ordered, joint_qkv, joint_up, gain, shift, out, mlp_gain, mlp_shift, up, down)
        ctx.save_for_backward(x, turns, *weights, *kept)
        return result

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor) -> tuple[Tensor | None, ...]:
        x, turns, *saved = ctx.saved_tensors
        (ordered, joint_qkv, joint_up, gain, shift, out, mlp_gain, mlp_shift, up, down), kept = saved[:10], saved[10:]
        upstream = upstreams[0].contiguous()
        batch, length, width = x.shape
        num_heads, at_once = ctx.num_heads, ctx.at_once
        by_qkv, by_up, by_out, by_down = (torch.zeros_like(weight) for weight in (joint_qkv, joint_up, out, down))
        by_qkv_bias, by_up_bias, by_bias = (x.new_zeros(len(weight)) for weight in (joint_qkv, joint_up, out))
        most = at_once * length
        activated, by_raised, by_fused, by_mixed, by_normal = (x.new_empty(most, n * width) for n in (4, 4, 3, 1, 1))
        all_by_heads, ones = x.new_empty(3 * most * width), x.new_ones(most)
        result = torch.empty_like(x)
        each = 6 + -(-length // _QUERIES)
        for number, first in enumerate(range(0, batch, at_once)):
            normal, mean, inverse_deviation, raised, heads, mixed, *probabilities = kept[number * each : (number + 1) * each]
            some = slice(first, first + len(normal))
            rows = len(raised)
            flat, arrived, unit = normal.view(rows, width), upstream[some].view(rows, width), ones[:rows]
            by_bias.addmv_(arrived.t(), unit)
            # The feed-forward half.
            by_down.addmm_(arrived.t(), _aten.gelu.out(raised, out=activated[:rows]))
            gradient = torch.mm(arrived, down, out=by_raised[:rows])
            _aten.gelu_backward.grad_input(gradient, raised, grad_input=gradient)
            by_up.addmm_(gradient.t(), flat)
            by_up_bias.addmv_(gradient.t(), unit)
            entered = torch.mm(gradient, joint_up, out=by_normal[:rows])
            # The attention half.
            by_out.addmm_(arrived.t(), mixed.view(rows, width))
            gradient = torch.mm(arrived, out, out=by_mixed[:rows])
            by_heads = all_by_heads[: heads.numel()].view(heads.shape)
            _attend_backward(heads, probabilities, gradient.view(mixed.shape).transpose(1, 2).contiguous(), by_heads)
            _rotate(by_heads, turns.conj())
            gradient = by_fused[:rows]
            gradient.view(-1, length, 3, num_heads, mixed.shape[-1]).copy_(by_heads.permute(1, 3, 0, 2, 4))
            by_qkv.addmm_(gradient.t(), flat)
            by_qkv_bias.addmv_(gradient.t(), unit)
            entered.addmm_(gradient, joint_qkv)
            through_norm, _, _ = _aten.native_layer_norm_backward(
                entered.view(normal.shape), x[some], (width,), mean, inverse_deviation, None, None, (True, False, False)
            )
            torch.add(through_norm, upstream[some], out=result[some])
        for queries in (by_qkv[:width], by_qkv_bias[:width]):
            queries *= mixed.shape[-1] ** -0.5
        _, stored = _row_order(width, num_heads, 2 * turns.shape[-1])
        by_gain, by_shift, by_ordered, by_ordered_bias = _apart(by_qkv, by_qkv_bias, gain, shift, ordered)
        of_attention = (by_gain, by_shift, by_ordered[stored], by_ordered_bias[stored], by_out, by_bias)
        of_mlp = (*_apart(by_up, by_up_bias, mlp_gain, mlp_shift, up), by_down, by_bias)
        return result, None, None, None, None, *of_attention, *of_mlp


def narrow_block(
    x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, *, num_heads: int, parameters: Sequence[Tensor]
) -> Tensor:
    """Return x + attention(norm(x)) + mlp(norm(x)), (batch, length, width), as `Block` does.

    Args:
        x: (batch, length, width), for which `is_narrow` holds; fp64 is supported too.
        cos, sin: `rotary_tables` for this length.
        mask: `document_mask` if rows hold several documents.
        num_heads: number of heads.
        parameters: the block's, in its order: weight and bias of the attention's norm, fused projection and output, then of
            the feed-forward part's norm and two layers.
    """
    half = cos.shape[-1] // 2
    turns = torch.complex(cos[:, :half], sin[:, :half])
    num_rows = _ROWS * torch.get_num_threads()
    result: Tensor = _NarrowBlock.apply(x.contiguous(), turns, mask, num_heads, num_rows, *parameters)
    return result
