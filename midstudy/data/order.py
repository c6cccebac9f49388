"""Seeded permutations without a table: map a position to the block or item it reads, in closed form.

A balanced Feistel network on the smallest even number of bits that holds `size`, iterated until the value is below `size`
(cycle walking: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). Any position can be computed alone, so
batch order needs no sampler state. The arithmetic is on 64-bit integers: the same on every machine and NumPy version.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

NUM_ROUNDS = 6


def derive_key(*parts: int | str) -> int:
    """Return a 64-bit key for what is permuted, e.g. (seed, corpus id, epoch)."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "little")


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply SplitMix64's finaliser (Steele, Lea and Flood, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def permute(positions: NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    """Map each position through the permutation of [0, size) that `key` selects.

    Args:
        positions: int64 array of any shape, all in [0, size).
        size: length of the permutation, at least 1 and below 2^62.
        key: 64-bit key, see `derive_key`.

    Returns:
        int64 array of the same shape, all in [0, size).
    """
    assert size >= 1
    assert positions.size == 0 or (positions.min() >= 0 and positions.max() < size)
    half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half_bits)) - 1)
    round_keys = np.array([derive_key(key, number) for number in range(NUM_ROUNDS)], dtype=np.uint64)
    out = positions.astype(np.uint64).ravel()
    pending = np.arange(out.size)
    while pending.size:
        values = out[pending]
        left, right = values >> half_bits, values & mask
        for round_key in round_keys:
            left, right = right, left ^ (_mix(right + round_key) & mask)
        values = (left << half_bits) | right
        out[pending] = values
        pending = pending[values >= size]
    return out.astype(np.int64).reshape(positions.shape)
