"""The batch that one update or one evaluation step reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IGNORED = -100
"""Target of a position without loss: padding, or a masked prompt."""

PAD_MULTIPLE = 8
"""Padded lengths are multiples of this: fewer distinct shapes, aligned rows."""


@dataclass(frozen=True)
class Batch:
    """Input ids and the token each position has to predict, all arrays of shape (num_sequences, length).

    `input_ids` and `targets` are int64; a target of -100 has no loss. Sequences are padded on the right only: attention is
    causal, so a token cannot see the padding after it.

    `weights` (float32) are the loss weights of the targets; `None` means 1 for all. The weight of a position without a
    target is ignored. `documents` (int32) is the document index of each position, counted from the start of the row;
    attention stays within a document. `None` means one document per row.

    `weights_are_advantages` is true for a policy gradient: the weights have any sign and add up to 0, and the mean loss is
    the weighted sum divided by the number of targets.
    """

    input_ids: NDArray[np.int64]
    targets: NDArray[np.int64]
    weights: NDArray[np.float32] | None = None
    documents: NDArray[np.int32] | None = None
    weights_are_advantages: bool = False

    def __post_init__(self) -> None:
        assert self.input_ids.ndim == 2
        assert self.input_ids.shape == self.targets.shape
        assert self.weights is None or self.weights.shape == self.targets.shape
        assert self.documents is None or self.documents.shape == self.targets.shape

    def rows(self, first: int, stop: int) -> Batch:
        """Return rows [first, stop): a micro-batch, or one rank's part."""
        return Batch(
            input_ids=self.input_ids[first:stop],
            targets=self.targets[first:stop],
            weights=None if self.weights is None else self.weights[first:stop],
            documents=None if self.documents is None else self.documents[first:stop],
            weights_are_advantages=self.weights_are_advantages,
        )

    @property
    def num_targets(self) -> int:
        """Number of positions that have a target."""
        return int((self.targets != IGNORED).sum())

    @property
    def total_weight(self) -> float:
        """Sum of the targets' weights, by which the mean loss is divided; without weights, or with advantages, the number
        of targets."""
        if self.weights is None or self.weights_are_advantages:
            return float(self.num_targets)
        return float(self.weights.sum(where=self.targets != IGNORED, dtype=np.float64))
