"""A ranking of candidates with what it does not decide: intervals, groups, and the probability of being best.

Draws add two independent sources: dev documents of the target are resampled, the same for all candidates, so that
differences are paired; and each candidate has a draw of Student's t with its standard error over its own documents. A group
has a leader, and with it all candidates whose difference from the leader has an interval that includes 0,
Bonferroni-corrected for the number of candidates. Not covered: other general text and another train split of the target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from midstudy.similarity.byte_expert import NUM_GROUPS
from midstudy.similarity.expert_gain import Gain

NUM_DRAWS = 4_000


@dataclass(frozen=True)
class Ranked:
    """A candidate's gain in bits per byte with a 95 % interval.

    `over_placebo`: its gain less the placebo's, with an interval. `group`: from 1; equal for candidates that cannot be
    distinguished from their group's leader.
    """

    name: str
    gain: float
    low: float
    high: float
    over_placebo: float
    over_placebo_low: float
    over_placebo_high: float
    probability_best: float
    group: int


def rank(gains: Mapping[str, Gain], *, placebo: Gain, bytes_by_document: NDArray[np.int64], seed: int = 0) -> list[Ranked]:
    """Return the candidates, the largest gain first.

    Args:
        gains: by name of the candidate.
        placebo: the gain of further general text, mixed in at the same share.
        bytes_by_document: of the dev documents.

    Raises:
        ValueError: there are no candidates.
    """
    if not gains:
        raise ValueError("expected at least one candidate, got none")
    rng = np.random.default_rng(seed)
    num_documents = bytes_by_document.size
    total = bytes_by_document.sum()
    names = sorted(gains, key=lambda name: (-gains[name].bits_by_document.sum(), name))
    rows = [*(gains[name] for name in names), placebo]
    bits = np.stack([one.bits_by_document for one in rows])
    values = bits.sum(axis=1) / total
    draws = np.empty((NUM_DRAWS, len(rows)))
    block = max(1, 2**22 // num_documents)
    for start in range(0, NUM_DRAWS, block):
        size = min(block, NUM_DRAWS - start)
        times = rng.multinomial(num_documents, np.full(num_documents, 1 / num_documents), size=size)
        draws[start : start + size] = (times @ bits.T) / (times @ bytes_by_document)[:, None]
    errors = np.array([one.standard_error for one in rows])
    draws += rng.standard_t(NUM_GROUPS - 1, size=draws.shape) * errors
    best = np.bincount(draws[:, :-1].argmax(axis=1), minlength=len(names)) / NUM_DRAWS
    groups = _groups(draws[:, :-1], 0.05 / max(1, len(names) - 1))
    ends = np.quantile(draws, [0.025, 0.975], axis=0)
    over = np.quantile(draws[:, :-1] - draws[:, -1:], [0.025, 0.975], axis=0)
    return [
        Ranked(
            name=name,
            gain=float(values[place]),
            low=float(ends[0, place]),
            high=float(ends[1, place]),
            over_placebo=float(values[place] - values[-1]),
            over_placebo_low=float(over[0, place]),
            over_placebo_high=float(over[1, place]),
            probability_best=float(best[place]),
            group=groups[place],
        )
        for place, name in enumerate(names)
    ]


def _groups(draws: NDArray[np.float64], alpha: float) -> list[int]:
    """Return the group of each column; columns are in the order of their values."""
    groups = [0] * draws.shape[1]
    while 0 in groups:
        leader, number = groups.index(0), max(groups) + 1
        for place in range(leader, len(groups)):
            if groups[place] == 0:
                low, high = np.quantile(draws[:, leader] - draws[:, place], [alpha / 2, 1 - alpha / 2])
                if place == leader or low <= 0 <= high:
                    groups[place] = number
    return groups
