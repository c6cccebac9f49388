"""Duplicates of one corpus in another: exact copies, and near copies by the word sequences that they share.

A near copy shares at least half of its sampled sequences of eight words. Sequences are sampled by their hash, one in eight
(Broder 1997, "On the resemblance and containment of documents"), so that memory is a fraction of the text. Documents without
a sampled sequence can only be exact copies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from midstudy.similarity.units import Grams, Keys

WORDS = 8
SHARED = 0.5
_ONE_IN = np.uint64(8)
_GRAMS = Grams("words", WORDS)


class KnownDocuments:
    """The documents of one corpus, to look copies up in."""

    def __init__(self, batches: Iterable[Sequence[str]]) -> None:
        digests, keys = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
        for batch in batches:
            digests.append(_digests(batch))
            sampled = _GRAMS.keys(batch)[0]
            keys.append(np.unique(sampled[sampled % _ONE_IN == 0]))
        self._digests = np.unique(np.concatenate(digests))
        self._keys = np.unique(np.concatenate(keys))

    def copies(self, batch: Sequence[str]) -> tuple[int, int]:
        """Return the numbers of exact copies and of near copies, which are not exact, among the documents of a batch."""
        is_exact = _is_in(_digests(batch), self._digests)
        keys, lengths = _GRAMS.keys(batch)
        owners = np.repeat(np.arange(len(batch)), lengths)
        is_sampled = keys % _ONE_IN == 0
        sampled = np.bincount(owners[is_sampled], minlength=len(batch))
        is_known = _is_in(keys[is_sampled], self._keys)
        known = np.bincount(owners[is_sampled][is_known], minlength=len(batch))
        is_near = (sampled > 0) & (known >= SHARED * sampled) & ~is_exact
        return int(is_exact.sum()), int(is_near.sum())


def _is_in(wanted: Keys, known: Keys) -> NDArray[np.bool_]:
    """Return which keys are among `known`, which is ascending. `np.isin` would sort `known` with every batch."""
    if not known.size:
        return np.zeros(wanted.size, np.bool_)
    return known[np.minimum(np.searchsorted(known, wanted), known.size - 1)] == wanted


def _digests(batch: Sequence[str]) -> Keys:
    return np.array(
        [int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "big") for text in batch], np.uint64
    )
