"""Random draws that are the same on every machine and Python version: integers from a hash of a key and a counter."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")

_NUMBERS = struct.Struct("<16I")


class Draw:
    """A stream of random draws that depends on its key alone.

    Python's `random` keeps its generator between versions, but not the way it turns bits into choices.
    """

    def __init__(self, key: str) -> None:
        self._key = key.encode("utf-8")
        self._blocks = 0
        self._unused: list[int] = []

    def below(self, limit: int) -> int:
        """Draw an integer in [0, limit), limit at most 2^32; the bias is below limit / 2^32."""
        if not self._unused:
            block = hashlib.blake2b(self._key, salt=self._blocks.to_bytes(16, "little")).digest()
            self._unused = list(_NUMBERS.unpack(block))
            self._blocks += 1
        return (self._unused.pop() * limit) >> 32

    def between(self, low: int, high: int) -> int:
        """Draw an integer in [low, high]."""
        return low + self.below(high - low + 1)

    def choice(self, items: Sequence[Item]) -> Item:
        """Draw one of the items."""
        return items[self.below(len(items))]

    def chance(self, percent: int) -> bool:
        """Return True with a probability of `percent` in a hundred."""
        return self.below(100) < percent

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """Return the items in random order."""
        order = list(items)
        for last in range(len(order) - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """Draw `count` of the items without replacement, in random order."""
        return self.shuffled(items)[:count]
