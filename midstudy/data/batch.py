"""A batch: what one update or one measurement reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Batch:
    """Input ids and the token each position has to predict.

    Both are int64 arrays of shape (num_sequences, length). A target of -100 carries no loss. Sequences are padded on the
    right only: attention is causal, so padding behind a token cannot reach it.
    """

    input_ids: NDArray[np.int64]
    targets: NDArray[np.int64]

    def __post_init__(self) -> None:
        assert self.input_ids.ndim == 2
        assert self.input_ids.shape == self.targets.shape
