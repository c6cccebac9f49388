"""What is counted of a text: n-grams of bytes, of lower-cased words or of lower-cased characters, as 58-bit keys.

A batch of documents becomes one flat array of keys; no n-gram crosses from one document into the next. Words are what
`str.split` yields, as in the paper's n-gram methods (arXiv 2510.14865, github.com/nightingal3/midtraining
`util_scripts/dataset_similarity_syntactic.py`). The key of up to seven bytes is the bytes themselves. Words and characters
are hashed: for a million different n-grams, two share a key with a probability of 2e-6.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

KEY_BITS = 58
"""Six bits remain in 64 for the group of a document (`midstudy/similarity/grouped_counts.py`)."""

MAX_BYTES_PER_GRAM = KEY_BITS // 8
MAX_ORDER = 32
KINDS = ("bytes", "words", "chars")

Keys = NDArray[np.uint64]


class Units(Protocol):
    """A way to cut documents into units that are counted."""

    def keys(self, texts: Sequence[str]) -> tuple[Keys, NDArray[np.int64]]:
        """Return the keys of all units, in order, and the number of units of each text."""
        ...


@dataclass(frozen=True)
class Grams:
    """N-grams of one kind and order.

    Raises:
        ValueError: the kind is unknown, or the order is not from 1 to 7 (bytes) or 32 (words, chars).
    """

    kind: str
    order: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"units: expected one of {', '.join(KINDS)}, got {self.kind!r}")
        most = MAX_BYTES_PER_GRAM if self.kind == "bytes" else MAX_ORDER
        if not 1 <= self.order <= most:
            raise ValueError(f"{self.kind}: expected n-grams of 1 to {most} {self.kind}, got {self.order}")

    def keys(self, texts: Sequence[str]) -> tuple[Keys, NDArray[np.int64]]:
        return self.keys_of(symbols_of(self.kind, texts))

    def keys_of(self, symbols_and_lengths: tuple[Keys, NDArray[np.int64]]) -> tuple[Keys, NDArray[np.int64]]:
        """Return what `keys` returns, from `symbols_of` texts, so that several orders read a text once."""
        symbols, lengths = symbols_and_lengths
        num_grams = np.maximum(lengths - (self.order - 1), 0)
        if not num_grams.sum():
            return np.zeros(0, np.uint64), num_grams
        starts = np.flatnonzero(_first_of(lengths, num_grams))
        if self.kind == "bytes":
            grams = np.zeros(symbols.size - self.order + 1, np.uint64)
            for place in range(self.order):
                grams = (grams << np.uint64(8)) | symbols[place : place + grams.size]
            return grams[starts], num_grams
        grams = np.zeros(symbols.size - self.order + 1, np.uint64)
        for place in range(self.order):
            grams = _mixed(grams ^ symbols[place : place + grams.size])
        return grams[starts] >> np.uint64(64 - KEY_BITS), num_grams


def symbols_of(kind: str, texts: Sequence[str]) -> tuple[Keys, NDArray[np.int64]]:
    """Return a key of each byte, word or character of the texts, in order, and their number in each text."""
    return _SYMBOLS[kind](texts)


def orders_of(text: str) -> tuple[Grams, ...]:
    """Return the n-grams that `KIND:N` names, or `KIND:FIRST-LAST` with several orders, as `words:1-4`.

    Raises:
        ValueError: the text has another form, or an order is out of range.
    """
    found = re.fullmatch(rf"({'|'.join(KINDS)}):(\d{{1,2}})(?:-(\d{{1,2}}))?", text)
    if not found or int(found[3] or found[2]) < int(found[2]):
        raise ValueError(
            f"expected KIND:N or KIND:FIRST-LAST with one of {', '.join(KINDS)}, as words:2 or chars:1-5, got {text}"
        )
    return tuple(Grams(found[1], order) for order in range(int(found[2]), int(found[3] or found[2]) + 1))


def _first_of(lengths: NDArray[np.int64], num_grams: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the first `num_grams` positions of each document of `lengths` symbols."""
    ends = np.cumsum(lengths)
    places = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    return places < np.repeat(num_grams, lengths)


def _byte_symbols(texts: Sequence[str]) -> tuple[Keys, NDArray[np.int64]]:
    encoded = [text.encode("utf-8") for text in texts]
    symbols = np.frombuffer(b"".join(encoded), np.uint8).astype(np.uint64)
    return symbols, np.array([len(text) for text in encoded], np.int64)


def _character_symbols(texts: Sequence[str]) -> tuple[Keys, NDArray[np.int64]]:
    lowered = [text.lower() for text in texts]
    symbols = np.frombuffer("".join(lowered).encode("utf-32-le"), np.uint32).astype(np.uint64)
    return symbols, np.array([len(text) for text in lowered], np.int64)


def _word_symbols(texts: Sequence[str]) -> tuple[Keys, NDArray[np.int64]]:
    """Return a 64-bit hash of each word: a polynomial in the word's bytes modulo 2^64, mixed."""
    hashes, lengths = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    block: list[bytes] = []
    size = 0
    for place, text in enumerate(texts, start=1):
        lowered = text.lower()
        block.append((lowered if lowered.isascii() else _WIDE_SPACE.sub(" ", lowered)).encode("utf-8"))
        size += len(block[-1]) + 1
        if size >= _BLOCK_BYTES or place == len(texts):
            found = _words_of_block(block)
            hashes.append(found[0])
            lengths.append(found[1])
            block, size = [], 0
    return np.concatenate(hashes), np.concatenate(lengths)


def _words_of_block(encoded: Sequence[bytes]) -> tuple[Keys, NDArray[np.int64]]:
    """The polynomials of all words come from one running sum: the sum over a word, divided by the power at its start."""
    joined = np.frombuffer(b" ".join([b"", *encoded, b""]), np.uint8)
    is_space = _IS_SPACE[joined]
    edges = np.flatnonzero(is_space[1:] != is_space[:-1]) + 1
    starts, ends = edges[::2], edges[1::2]
    powers, inverses = _powers(1 << max(16, int(joined.size).bit_length()))
    with np.errstate(over="ignore"):
        running = np.zeros(joined.size + 1, np.uint64)
        np.cumsum(_BYTE_VALUES[joined] * powers[: joined.size], out=running[1:])
        hashes = _mixed((running[ends] - running[starts]) * inverses[starts])
    limits = np.cumsum([1, *(len(text) + 1 for text in encoded)])
    return hashes, np.diff(np.searchsorted(starts, limits))


_SYMBOLS = {"bytes": _byte_symbols, "chars": _character_symbols, "words": _word_symbols}

_BLOCK_BYTES = 2**18
"""Of words hashed together: numpy's arrays of one block fit a processor's cache."""

# The white space of `str.split`: as bytes, and as characters outside ASCII.
_IS_SPACE = np.isin(np.arange(256), [*range(9, 14), *range(28, 33)])
_WIDE_SPACE = re.compile(r"[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")

_BYTE_VALUES = np.random.default_rng(20).integers(2**64, size=256, dtype=np.uint64)
_BASE = 0x9E3779B97F4A7C15


@cache
def _powers(size: int) -> tuple[Keys, Keys]:
    """Return the first powers of an odd base modulo 2^64, and their inverses."""
    inverse = pow(_BASE, -1, 2**64)
    with np.errstate(over="ignore"):
        return tuple(  # type: ignore[return-value]
            np.concatenate([np.ones(1, np.uint64), np.cumprod(np.full(size - 1, base, np.uint64))])
            for base in (_BASE, inverse)
        )


def _mixed(values: Keys) -> Keys:
    """Return the values with their bits mixed (the finalizer of splitmix64, Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(_BASE)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
