"""Seeded permutations without a table: which block or item a position reads, in closed form.

A balanced Feistel network on the smallest even number of bits that holds `size`, walked along its cycle until it lands
inside (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). Any position can be asked for alone, so batch
order needs no sampler state; the arithmetic is 64-bit integers, the same on every machine and NumPy version.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

NUM_ROUNDS = 6


def derive_key(*parts: int | str) -> int:
    """A 64-bit key that names what is being ordered, e.g. (seed, corpus id, epoch)."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "little")


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def permute(positions: NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    """Where each position in [0, size) goes under the permutation of `key`: a bijection of [0, size).

    Args:
        positions: int64 array of any shape, all in [0, size).
        size: length of what is permuted, at least 1 and below 2^62.
        key: 64-bit key; see `derive_key`.
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
