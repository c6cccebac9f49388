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
        self._heap: list[tuple[int, int, str]] = []
        self._num_bytes = self._number = 0

    def add(self, document: str) -> None:
        """Consider one more document; copies count as often as they occur."""
        rank = int.from_bytes(hashlib.blake2b(document.encode("utf-8"), digest_size=8, person=b"sample").digest(), "big")
        self._number += 1
        heapq.heappush(self._heap, (-rank, -self._number, document))
        self._num_bytes += len(document.encode("utf-8"))
        while self._is_full_without_last():
            self._num_bytes -= len(heapq.heappop(self._heap)[2].encode("utf-8"))

    def _is_full_without_last(self) -> bool:
        if self._max_documents is not None:
            return len(self._heap) > self._max_documents
        assert self._max_bytes is not None
        return self._num_bytes - len(self._heap[0][2].encode("utf-8")) >= self._max_bytes

    def merge(self, other: HashSample) -> None:
        """Add the sample of another part of the stream, as if all documents of that part had been added here."""
        for _, _, document in other._heap:
            self.add(document)

    def documents(self) -> tuple[str, ...]:
        """Return the sample in the order of the hash; the last document is cut at `max_bytes`."""
        chosen = [document for _, _, document in sorted(self._heap, reverse=True)]
        if self._max_bytes is not None and self._num_bytes > self._max_bytes:
            last = chosen[-1].encode("utf-8")
            chosen[-1] = last[: len(last) - (self._num_bytes - self._max_bytes)].decode("utf-8", "ignore")
        return tuple(chosen)
