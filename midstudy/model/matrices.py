"""The matrices that a weight holds: the fused projection of a block holds three, query, key and value; others hold one."""

from __future__ import annotations

from torch import Tensor

from midstudy.recipe.shape import AnyShape


def _is_fused(name: str) -> bool:
    return name.endswith("qkv.weight")


def matrices_of(weight: Tensor, name: str, shape: AnyShape) -> Tensor:
    """Return the matrices of a weight, (number, rows, columns); a copy if there are three, otherwise a view.

    Args:
        weight: (rows, columns), the parameter `name` of a model of `shape`, or a tensor like it. The rows of the fused
            projection are ordered by head, each with its query, key and value.
    """
    if not _is_fused(name):
        return weight[None]
    return weight.unflatten(0, (shape.num_heads, 3, -1)).transpose(0, 1).flatten(1, 2)


def weight_of(matrices: Tensor, name: str, shape: AnyShape) -> Tensor:
    """Return the weight that holds these matrices: the inverse of `matrices_of`."""
    if not _is_fused(name):
        return matrices[0]
    return matrices.unflatten(1, (shape.num_heads, -1)).transpose(0, 1).flatten(0, 2)
