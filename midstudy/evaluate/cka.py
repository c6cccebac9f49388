"""Linear CKA between the layers of two models, from sums of products over batches of examples.

Linear centred kernel alignment of A and B, whose rows are the same examples and whose columns have mean 0, is

    ‖AᵀB‖² / (‖AᵀA‖ ‖BᵀB‖)    with Frobenius norms,

1 for representations that are equal up to an orthogonal map and a scale. It equals HSIC(A, B) / √(HSIC(A, A) HSIC(B, B))
with linear kernels. Source: Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019 (arXiv
1905.00414), equations 3 and 4; arXiv 2510.14865.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ROWS = 2_048
"""Most examples that are held in fp64 at a time."""

_CONSTANT = 1e-24
"""A layer whose variance is a smaller fraction of its squared mean is constant up to rounding in fp64."""


class LinearCKA:
    """Accumulates what linear CKA between all layers of two models needs, in fp64: O(width²) numbers per pair of layers.

    The first batch's means are subtracted from all examples, so that the centring in `matrix` cancels few digits.
    """

    def __init__(self) -> None:
        self.num_examples = 0
        self._shifts: list[Tensor] = []
        self._sums: list[Tensor] = []
        self._products: dict[tuple[int, int], Tensor] = {}
        self._num_left = 0

    def add(self, left: Sequence[Tensor], right: Sequence[Tensor]) -> None:
        """Add a batch of examples.

        Args:
            left: the first model's layers, each of shape (num_examples, width); the width may differ by layer.
            right: the same examples in the layers of the second model.
        """
        if not self._sums:
            self._num_left = len(left)
            self._shifts = [layer.mean(dim=0, dtype=torch.float64) for layer in (*left, *right)]
            self._sums = [torch.zeros_like(shift) for shift in self._shifts]
        for rows in zip(*(layer.split(_ROWS) for layer in (*left, *right)), strict=True):
            self._add_rows(rows)

    def _add_rows(self, rows: Sequence[Tensor]) -> None:
        layers = [layer.double() - shift for layer, shift in zip(rows, self._shifts, strict=True)]
        self.num_examples += len(layers[0])
        for total, layer in zip(self._sums, layers, strict=True):
            total += layer.sum(dim=0)
        for pair in self._pairs:
            product = layers[pair[0]].T @ layers[pair[1]]
            self._products[pair] = self._products[pair] + product if pair in self._products else product

    @property
    def _pairs(self) -> list[tuple[int, int]]:
        """Each layer with itself, and each left layer with each right one; right layers are numbered after left ones."""
        num_layers = len(self._sums)
        rights = range(self._num_left, num_layers)
        return [(i, i) for i in range(num_layers)] + [(i, j) for i in range(self._num_left) for j in rights]

    def matrix(self) -> NDArray[np.float64]:
        """Return CKA of each left layer (rows) with each right one (columns).

        Raises:
            ValueError: a layer does not vary over the examples, or there is no example.
        """
        norms = {pair: self._centred_norm(pair) for pair in self._pairs}
        num_layers = len(self._sums)
        squares = [self.num_examples * float(shift @ shift) for shift in self._shifts]
        if not num_layers or any(norms[i, i] <= _CONSTANT * squares[i] for i in range(num_layers)):
            raise ValueError(
                f"CKA: expected representations that vary, got {self.num_examples} examples that are all alike."
            )
        return np.array(
            [
                [norms[i, j] ** 2 / (norms[i, i] * norms[j, j]) for j in range(self._num_left, num_layers)]
                for i in range(self._num_left)
            ]
        )

    def _centred_norm(self, pair: tuple[int, int]) -> float:
        left, right = (self._sums[layer] for layer in pair)
        return float(torch.linalg.norm(self._products[pair] - torch.outer(left, right) / self.num_examples))
