"""A random sample of a stream of documents that does not depend on their order, and the stream in batches."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator

_BATCH_CHARACTERS = 2**20


def batches_of(documents: Iterable[str]) -> Iterator[list[str]]:
    """Yield lists of documents of about a million characters."""
    batch: list[str] = []
    num_characters = 0
    for document in documents:
        batch.append(document)
        num_characters += len(document)
        if num_characters >= _BATCH_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


class HashSample:
    """The documents of a stream that come first in the order of the hash of their text: a random sample in any order."""

    def __init__(self, *, max_documents: int | None = None, max_bytes: int | None = None) -> None:
        self._max_documents, self._max_bytes = max_documents, max_bytes
        self._heap: list[tuple[int, int, bytes]] = []  # the last of the order first
        self._num_bytes = self._number = 0

    def add(self, document: str) -> None:
        """Consider one more document; copies count as often as they occur."""
        encoded = document.encode("utf-8")
        rank = int.from_bytes(hashlib.blake2b(encoded, digest_size=8, person=b"sample").digest(), "big")
        self._number += 1
        if self._heap and self._is_full() and -rank <= self._heap[0][0]:
            return
        heapq.heappush(self._heap, (-rank, -self._number, encoded))
        self._num_bytes += len(encoded)
        while self._is_full(without_last=True):
            self._num_bytes -= len(heapq.heappop(self._heap)[2])

    def _is_full(self, *, without_last: bool = False) -> bool:
        if self._max_documents is not None:
            return len(self._heap) - without_last >= self._max_documents
        assert self._max_bytes is not None
        return self._num_bytes - (len(self._heap[0][2]) if without_last else 0) >= self._max_bytes

    def merge(self, other: HashSample) -> None:
        """Add the sample of another part of the stream, as if all documents of that part had been added here."""
        for _, _, document in other._heap:
            self.add(document.decode("utf-8"))

    def documents(self) -> tuple[str, ...]:
        """Return the sample in the order of the hash; the last document is cut at `max_bytes`."""
        chosen = [encoded for _, _, encoded in sorted(self._heap, reverse=True)]
        if self._max_bytes is not None and self._num_bytes > self._max_bytes:
            chosen[-1] = chosen[-1][: len(chosen[-1]) - (self._num_bytes - self._max_bytes)]
        return tuple(encoded.decode("utf-8", "ignore") for encoded in chosen)
