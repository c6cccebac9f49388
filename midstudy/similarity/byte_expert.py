"""Byte n-gram experts: interpolated 4-gram models of bytes, counted by groups of documents, evaluated for windows of bytes.

Interpolation is Witten and Bell's (1991, method C; Chen and Goodman 1998, section 2.4):

    P_n(byte | context) = (count + kinds · P_{n−1}(byte | shorter context)) / (total + kinds),  P_0 = 1/256

with `total` the number of bytes that follow a context and `kinds` how many of them are different. A document stands between
three zero bytes on each side. Counts of all orders follow from those of windows of four bytes, by sums over equal prefixes;
one sort counts a corpus. Memory: the sample that is counted, and 36 bytes for each different window of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ORDER = 4
NUM_GROUPS = 8
"""Groups of documents for the jackknife; three bits of a code."""

_PAD = bytes(ORDER - 1)
_GROUP_BITS = 3
_BLOCK_BYTES = 2**19
_UNIFORM = 1 / 256

Windows = NDArray[np.uint32]
Probabilities = NDArray[np.float64]


def windows_of(documents: Sequence[bytes], *, with_end: bool) -> tuple[Windows, NDArray[np.int64]]:
    """Return every window of four bytes, as one big-endian number, and the number of windows of each document.

    Args:
        with_end: True for the windows that are counted, up to the one that starts in the last byte; False for those that end
            in a byte of the document, one for each byte, which are scored.
    """
    lengths = np.array([len(one) for one in documents], np.int64)
    if not documents:
        return np.zeros(0, np.uint32), lengths
    joined = np.frombuffer(_PAD + _PAD.join(documents) + _PAD, np.uint8).astype(np.uint32)
    keys = joined[: joined.size - (ORDER - 1)].copy()
    for place in range(1, ORDER):
        keys = (keys << np.uint32(8)) | joined[place : joined.size - (ORDER - 1) + place]
    if with_end:
        return keys, lengths + (ORDER - 1)
    ends = np.cumsum(lengths + (ORDER - 1))
    is_scored = np.arange(keys.size) < np.repeat(ends - (ORDER - 1), lengths + (ORDER - 1))
    return keys[is_scored], lengths


@dataclass(frozen=True, eq=False)
class ByteCounts:
    """Counts of windows: `keys` ascending uint32 of shape (n,), `counts` uint32 of shape (n, 8), a column for each group."""

    keys: Windows
    counts: NDArray[np.uint32]
    num_documents: int
    num_bytes: int

    @classmethod
    def of(cls, documents: Sequence[bytes], groups: Sequence[int]) -> ByteCounts:
        """Count documents, each in one of the groups 0 to 7.

        Raises:
            ValueError: there is no text, or a group is out of range.
        """
        num_bytes = sum(map(len, documents))
        if not num_bytes:
            raise ValueError("expected documents with text, got none")
        if not 0 <= min(groups) <= max(groups) < NUM_GROUPS:
            raise ValueError(f"expected groups from 0 to {NUM_GROUPS - 1}, got {min(groups)} to {max(groups)}")
        codes = np.empty(num_bytes + (ORDER - 1) * len(documents), np.uint64)
        block, size, filled = 0, 0, 0
        for place, document in enumerate(documents, start=1):
            size += len(document)
            if size >= _BLOCK_BYTES or place == len(documents):
                keys, lengths = windows_of(documents[block:place], with_end=True)
                part = codes[filled : filled + keys.size]
                part[:] = keys
                part <<= np.uint64(_GROUP_BITS)
                part |= np.repeat(np.array(groups[block:place], np.uint64), lengths)
                block, size, filled = place, 0, filled + keys.size
        codes.sort()
        firsts = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
        numbers = np.diff(np.append(firsts, codes.size))
        codes = codes[firsts]
        by_key = (codes >> np.uint64(_GROUP_BITS)).astype(np.uint32)
        is_first = np.concatenate([[True], by_key[1:] != by_key[:-1]])
        counts = np.zeros((int(is_first.sum()), NUM_GROUPS), np.uint32)
        counts[np.cumsum(is_first) - 1, (codes & np.uint64(NUM_GROUPS - 1)).astype(np.int64)] = numbers
        return cls(by_key[is_first], counts, len(documents), num_bytes)


class ByteExpert:
    """The model of one corpus, looked up for fixed windows, so that it can be evaluated without some of its documents.

    Args:
        windows: uint32 of shape (m,); the last byte of each is predicted from the three before it.
    """

    def __init__(self, counts: ByteCounts, windows: Windows) -> None:
        self._counts = counts
        self._whole = counts.counts.sum(axis=1, dtype=np.int64)
        self._num_windows = windows.size
        keys, starts = [counts.keys], []  # of each order, the highest first
        for _ in range(ORDER - 1):
            shorter = keys[-1] >> np.uint32(8)
            starts.append(np.flatnonzero(np.concatenate([[True], shorter[1:] != shorter[:-1]])))
            keys.append(shorter[starts[-1]])
        self._starts, self._grams, self._contexts = [*starts, np.zeros(1, np.int64)], [], []
        for place, known in enumerate(keys):
            order = ORDER - place
            self._grams.append(_places(known, windows & np.uint32(2 ** (8 * order) - 1)))
            if order > 1:
                context = (windows >> np.uint32(8)) & np.uint32(2 ** (8 * (order - 1)) - 1)
                self._contexts.append(_places(keys[place + 1], context))
            else:
                self._contexts.append((np.zeros(windows.size, np.int64), np.ones(windows.size, np.bool_)))

    def probabilities(self, *, without_group: int | None = None) -> Probabilities:
        """Return the probability of the last byte of each window, float64 of shape (m,), each above 0.

        Args:
            without_group: leave out the documents of one group.
        """
        level = self._whole if without_group is None else self._whole - self._counts.counts[:, without_group]
        parts = []
        for starts, (gram, has_gram), (context, has_context) in zip(self._starts, self._grams, self._contexts, strict=True):
            kinds = np.add.reduceat((level > 0).astype(np.int64), starts)
            total = np.add.reduceat(level, starts)
            parts.append((level[gram] * has_gram, total[context] * has_context, kinds[context] * has_context))
            level = total
        result = np.full(self._num_windows, _UNIFORM)
        for count, total, kinds in reversed(parts):
            result = np.where(total > 0, (count + kinds * result) / np.maximum(total + kinds, 1), result)
        return result


def _places(known: Windows, wanted: Windows) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    places = np.minimum(np.searchsorted(known, wanted), known.size - 1)
    return places, known[places] == wanted
