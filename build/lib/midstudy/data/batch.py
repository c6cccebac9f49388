"""A batch: what one update or one measurement reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IGNORED = -100
"""Target of a position that carries no loss: padding, or a masked prompt."""


@dataclass(frozen=True)
class Batch:
    """Input ids and the token each position has to predict, all arrays of shape (num_sequences, length).

    `input_ids` and `targets` are int64; a target of -100 carries no loss. Sequences are padded on the right only: attention
    is causal, so padding behind a token cannot reach it.

    `weights` (float32) says what each target counts for in the loss; none is 1 for all. Where there is no target, the
    weight means nothing. `documents` (int32) numbers the document of each position from the row's start, and attention
    stays inside a document; none is one document a row.
    """

    input_ids: NDArray[np.int64]
    targets: NDArray[np.int64]
    weights: NDArray[np.float32] | None = None
    documents: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        assert self.input_ids.ndim == 2
        assert self.input_ids.shape == self.targets.shape
        assert self.weights is None or self.weights.shape == self.targets.shape
        assert self.documents is None or self.documents.shape == self.targets.shape

    def rows(self, first: int, stop: int) -> Batch:
        """Rows [first, stop): a micro-batch, or the share of a rank."""
        return Batch(
            input_ids=self.input_ids[first:stop],
            targets=self.targets[first:stop],
            weights=None if self.weights is None else self.weights[first:stop],
            documents=None if self.documents is None else self.documents[first:stop],
        )

    @property
    def num_targets(self) -> int:
        """Positions that have a target."""
        return int((self.targets != IGNORED).sum())

    @property
    def total_weight(self) -> float:
        """Sum of the targets' weights, what the mean loss is divided by; their number where there are no weights."""
        if self.weights is None:
            return float(self.num_targets)
        return float(self.weights.sum(where=self.targets != IGNORED, dtype=np.float64))
