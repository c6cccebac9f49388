"""Expected gain of a candidate before training: byte experts, mixed at its share and topped by the target's train split.

    gain = mean over the target's dev bytes of
           log2 [ (½ task + ½ (w · candidate + (1 − w) · general)) / (½ task + ½ general) ]

`task` is the expert of the target's train split, which stands for fine-tuning; w is the candidate's share of the tokens. The
idea of mixing experts' probabilities is that of mixtures of data experts (arXiv 2502.15950). Order 4, the half and the
interpolation are fixed: they were chosen once, among 25 predictors that were looked at on one study of 20 dependent pairs,
and are not tuned on the results of the flagship study. On other studies the predictor is a hypothesis. What the mix costs on
general text is the same ratio without `task`, on general dev text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from midstudy.similarity.byte_expert import NUM_GROUPS, ByteCounts, ByteExpert, Probabilities, Windows, windows_of

TASK_WEIGHT = 0.5


@dataclass(frozen=True, eq=False)
class Gain:
    """Bits that a candidate saves.

    `bits_by_document`: float64 of shape (documents,), sums over the bytes of each dev document. `standard_error`: of the
    gain in bits per byte, over the candidate's documents, by the jackknife over groups (Efron and Stein 1981).
    """

    bits_by_document: NDArray[np.float64]
    standard_error: float


class Scored:
    """Text that experts are scored on; a window is evaluated once, however often it occurs."""

    def __init__(self, documents: Sequence[bytes]) -> None:
        if not any(documents):
            raise ValueError("expected documents with text to score, got none")
        windows, lengths = windows_of(documents, with_end=False)
        self.windows: Windows
        self.windows, self._places = np.unique(windows, return_inverse=True)
        self.bytes_by_document = lengths
        self._starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        self._frequency = np.bincount(self._places, minlength=self.windows.size) / windows.size

    def by_document(self, values: Probabilities) -> NDArray[np.float64]:
        """Return the sum of the values of each document's windows, float64 of shape (documents,)."""
        return np.add.reduceat(values[self._places], self._starts)

    def per_byte(self, values: Probabilities) -> float:
        """Return the mean of the values of all windows."""
        return float(np.sum(self._frequency * values))  # a BLAS product waits for its threads on a busy machine

    def expert(self, counts: ByteCounts) -> ByteExpert:
        """Return the expert of a corpus for this text."""
        return ByteExpert(counts, self.windows)


def gain_of(
    candidate: ByteExpert, *, general: Probabilities, task: Probabilities | None, scored: Scored, share: float
) -> Gain:
    """Return what a candidate saves, against general text alone; without a `task`, on general text.

    Raises:
        ValueError: the share is not in (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"share: expected a number between 0 and 1, got {share}")
    base = _topped(general, task)

    def bits(probabilities: Probabilities) -> NDArray[np.float64]:
        return np.log2(_topped(share * probabilities + (1 - share) * general, task) / base)

    without = [scored.per_byte(bits(candidate.probabilities(without_group=group))) for group in range(NUM_GROUPS)]
    variance = (NUM_GROUPS - 1) / NUM_GROUPS * float(np.sum((np.array(without) - np.mean(without)) ** 2))
    return Gain(scored.by_document(bits(candidate.probabilities())), variance**0.5)


def bits_per_byte(*, general: Probabilities, task: Probabilities | None, scored: Scored) -> float:
    """Return the loss of general text, topped by the task's expert if there is one, in bits per byte."""
    return -scored.per_byte(np.log2(_topped(general, task)))


def _topped(probabilities: Probabilities, task: Probabilities | None) -> Probabilities:
    return probabilities if task is None else TASK_WEIGHT * task + (1 - TASK_WEIGHT) * probabilities
