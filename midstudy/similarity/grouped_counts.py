"""Counts of units in 64 groups of documents, added up batch by batch: what rarefaction, halves and the bootstrap need.

A document's group is a hash of its text. Groups are therefore random samples of documents, they do not depend on the order
of the documents, and copies of a document are in one group, since they are not independent. Memory grows with the number of
different units in a group, not with the corpus.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from midstudy.similarity.units import KEY_BITS, Keys

NUM_GROUPS = 64
_GROUP_BITS = 64 - KEY_BITS
assert 1 << _GROUP_BITS == NUM_GROUPS

_KEY_MASK = np.uint64((1 << KEY_BITS) - 1)


def group_of(text: str) -> int:
    """Return the group of a document, from 0 to 63, by the BLAKE2b hash of its text."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()[0] % NUM_GROUPS


@dataclass(frozen=True, eq=False)
class GroupedCounts:
    """Counts by group and key.

    `codes` holds group · 2^58 + key, ascending, uint64 of shape (n,); `counts` int64 of shape (n,), each at least 1.
    """

    codes: Keys
    counts: NDArray[np.int64]

    @property
    def num_units(self) -> int:
        return int(self.counts.sum())

    @property
    def keys(self) -> Keys:
        """Key of each count, uint64 of shape (n,)."""
        return self.codes & _KEY_MASK

    @property
    def groups(self) -> NDArray[np.int64]:
        """Group of each count, int64 of shape (n,)."""
        return (self.codes >> np.uint64(KEY_BITS)).astype(np.int64)

    @property
    def digest(self) -> str:
        """SHA-256 over codes and counts."""
        whole = hashlib.sha256(self.codes.astype("<u8").tobytes())
        whole.update(self.counts.astype("<i8").tobytes())
        return whole.hexdigest()

    def units_by_group(self) -> NDArray[np.int64]:
        """Number of units of each group, int64 of shape (64,)."""
        return np.bincount(self.groups, weights=self.counts, minlength=NUM_GROUPS).astype(np.int64)

    def in_groups(self, wanted: NDArray[np.bool_]) -> GroupedCounts:
        """Return the counts of the groups that `wanted`, of shape (64,), marks."""
        kept = wanted[self.groups]
        return GroupedCounts(self.codes[kept], self.counts[kept])

    def rarefied(self, num_units: int, rng: np.random.Generator) -> GroupedCounts:
        """Return a random sample of the units, drawn without replacement (Hurlbert 1971).

        Exactly `num_units` units, except of more than 10^9, beyond numpy's limit, where each unit is kept by chance.

        Raises:
            ValueError: there are fewer units.
        """
        total = self.num_units
        if not 0 <= num_units <= total:
            raise ValueError(f"expected a sample of at most {total} units, got {num_units}")
        if num_units == total:
            return self
        if total < 1_000_000_000:
            drawn = rng.multivariate_hypergeometric(self.counts, num_units, method="marginals")
        else:
            drawn = rng.binomial(self.counts, num_units / total)
        kept = drawn > 0
        return GroupedCounts(self.codes[kept], drawn[kept])

    def matrix(self, vocabulary: Keys) -> sparse.csc_array:
        """Return the counts as a sparse matrix of shape (64, size of the ascending `vocabulary`), float64."""
        columns = np.searchsorted(vocabulary, self.keys)
        shape = (NUM_GROUPS, vocabulary.size)
        return sparse.csc_array((self.counts.astype(np.float64), (self.groups, columns)), shape=shape)


class Counting:
    """Adds up batches of keys. Sorted runs are merged when they reach the size of the run before, as in a merge sort."""

    def __init__(self) -> None:
        self._runs: list[GroupedCounts] = []

    def add(self, keys: Keys, num_units: NDArray[np.int64], groups: Sequence[int]) -> None:
        """Count a batch: its keys, the number of keys of each document and the group of each document."""
        shifted = np.array(groups, np.uint64) << np.uint64(KEY_BITS)
        codes, counts = np.unique(keys | np.repeat(shifted, num_units), return_counts=True)
        self._runs.append(GroupedCounts(codes, counts.astype(np.int64)))
        while len(self._runs) > 1 and self._runs[-1].codes.size * 2 > self._runs[-2].codes.size:
            self._runs.append(merged([self._runs.pop(), self._runs.pop()]))

    def counts(self) -> GroupedCounts:
        """Return the counts of all batches so far."""
        return merged(self._runs)


def merged(parts: Sequence[GroupedCounts]) -> GroupedCounts:
    """Return the sum of counts."""
    if not parts:
        return GroupedCounts(np.zeros(0, np.uint64), np.zeros(0, np.int64))
    if len(parts) == 1:
        return parts[0]
    codes = np.concatenate([part.codes for part in parts])
    counts = np.concatenate([part.counts for part in parts])
    order = np.argsort(codes, kind="stable")
    codes, counts = codes[order], counts[order]
    firsts = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]])) if codes.size else np.zeros(0, np.int64)
    return GroupedCounts(codes[firsts], np.add.reduceat(counts, firsts) if codes.size else counts)
