"""Whether the words of a text are in an order: adjacent pairs repeat more often than after a shuffle.

Byte 4-grams see little beyond a word, so that a shuffled copy of the target's words would rank high. The test is a
permutation test within documents: the number of different adjacent pairs, against its mean and standard deviation over
shuffles. In text the number is lower by hundreds of standard deviations; a shuffled text is a further shuffle of itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from midstudy.similarity.units import Grams

MAX_WORDS = 50_000
NUM_SHUFFLES = 12
_MOST_CHARACTERS = 2**19
RANDOM_BELOW = 6.0
"""Standard deviations below which words count as shuffled."""


def order_score(texts: Sequence[str], *, seed: int = 0) -> float:
    """Return by how many standard deviations the number of different word pairs is below that of shuffles.

    Reads about half a million characters, and up to 50,000 of their words. Infinite if no shuffle changes the number, as of
    texts of one word.
    """
    num_characters = np.cumsum([len(text) for text in texts])
    texts = texts[: int(np.searchsorted(num_characters, _MOST_CHARACTERS)) + 1]
    keys, lengths = Grams("words", 1).keys(texts)
    keys = keys[:MAX_WORDS]
    owners = np.repeat(np.arange(len(texts)), lengths)[:MAX_WORDS]
    is_inside = owners[1:] == owners[:-1]
    _, words = np.unique(keys, return_inverse=True)

    def num_pairs(order: np.ndarray) -> int:
        return int(np.unique((order[:-1] * np.int64(MAX_WORDS) + order[1:])[is_inside]).size)

    rng = np.random.default_rng(seed)
    shuffled = [num_pairs(words[np.argsort(owners + rng.random(words.size))]) for _ in range(NUM_SHUFFLES)]
    spread = float(np.std(shuffled, ddof=1))
    return (float(np.mean(shuffled)) - num_pairs(words)) / spread if spread else float("inf")
