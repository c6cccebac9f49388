"""What text alone says of candidates: gains of byte experts, costs on general text, and the paper's proximity advantage.

General text is split by documents into halves: one is the general expert, the other a placebo, mixed in as a candidate is.
Every expert but the target's is counted on equally many bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from midstudy.data.named_text import NamedText
from midstudy.run.candidate_counts import SAMPLE_BYTES, byte_counts, counted, counts_of, dev_documents, halves
from midstudy.run.counts_cache import Arrays
from midstudy.similarity.distribution import TokenDistribution, mix, similarity
from midstudy.similarity.expert_gain import Gain, Scored, bits_per_byte, gain_of
from midstudy.similarity.hashed_words import log_importance
from midstudy.similarity.proximity import ProximityAdvantage, proximity_advantage

_WORTH_PROCESSES_BYTES = 2**25


@dataclass(frozen=True, eq=False)
class ExpertScores:
    """Scores of candidates by name. `costs` are bits per byte of general dev text; above 0 is worse."""

    share: float
    budget_bytes: int
    bytes_by_document: NDArray[np.int64]
    target_bits_per_byte: float
    general_bits_per_byte: float
    placebo: Gain
    gains: Mapping[str, Gain]
    costs: Mapping[str, float]
    counts: Mapping[str, Arrays]
    general_bins: NDArray[np.int64]
    task_bins: NDArray[np.int64]

    @cached_property
    def log_importance(self) -> NDArray[np.float64]:
        """The log importance of each bin of hashed words for the target, against general text."""
        return log_importance(self.task_bins, self.general_bins)

    def per_byte(self, gain: Gain) -> float:
        """Return a gain in bits per byte of the target's dev text."""
        return float(gain.bits_by_document.sum() / self.bytes_by_document.sum())

    def relative_gain(self, name: str) -> float:
        """Return a candidate's gain over the target's bits per byte without it, a fraction."""
        return self.per_byte(self.gains[name]) / self.target_bits_per_byte

    def advantage(self, name: str) -> ProximityAdvantage:
        """Return the paper's proximity advantage of a candidate at its share, over hashed words."""
        c, g, t = (
            TokenDistribution.from_counts(bins) for bins in (self.counts[name]["bins"], self.general_bins, self.task_bins)
        )
        return proximity_advantage(
            mix_to_task=similarity(mix([(c, self.share), (g, 1 - self.share)]), t), control_to_task=similarity(g, t)
        )


def processes_for(texts: Sequence[NamedText], *, at_most: int) -> int:
    """Return how many processes are worth their start for texts of this size."""
    size = sum(text.size_bytes or _WORTH_PROCESSES_BYTES for text in texts)
    return min(at_most, len(os.sched_getaffinity(0))) if size > _WORTH_PROCESSES_BYTES else 1


def expert_scores(
    *,
    target: NamedText,
    general: NamedText,
    candidates: Sequence[NamedText],
    share: float,
    num_processes: int = 1,
    on_progress: Callable[[str], None] = lambda line: None,
) -> ExpertScores:
    """Score the candidates for the target.

    Args:
        share: the candidate's share of the tokens, in (0, 1).
        on_progress: called with a line of text.

    Raises:
        RecipeError: a split has no text.
        ValueError: a source cannot be read.
    """
    on_progress(f"{general.name}: counting")
    parts = halves(general)
    budget = int(parts["budget"])
    task = counted(target, SAMPLE_BYTES)
    counts = counts_of(candidates, max_bytes=budget, num_processes=num_processes, on_progress=on_progress)

    scored, on_general = Scored(dev_documents(target)), Scored(dev_documents(general))
    trunk = byte_counts(parts, "general")
    base, cost_base = (one.expert(trunk).probabilities() for one in (scored, on_general))
    tuned = scored.expert(byte_counts(task)).probabilities()
    placebo = gain_of(scored.expert(byte_counts(parts, "placebo")), general=base, task=tuned, scored=scored, share=share)
    gains, costs = {}, {}
    for text, one in zip(candidates, counts, strict=True):
        of_bytes = byte_counts(one)
        gains[text.name] = gain_of(scored.expert(of_bytes), general=base, task=tuned, scored=scored, share=share)
        cost = gain_of(on_general.expert(of_bytes), general=cost_base, task=None, scored=on_general, share=share)
        costs[text.name] = -float(cost.bits_by_document.sum() / on_general.bytes_by_document.sum())
    return ExpertScores(
        share=share,
        budget_bytes=budget,
        bytes_by_document=scored.bytes_by_document,
        target_bits_per_byte=bits_per_byte(general=base, task=tuned, scored=scored),
        general_bits_per_byte=bits_per_byte(general=cost_base, task=None, scored=on_general),
        placebo=placebo,
        gains=gains,
        costs=costs,
        counts={text.name: one for text, one in zip(candidates, counts, strict=True)},
        general_bins=parts["bins"],
        task_bins=task["bins"],
    )
