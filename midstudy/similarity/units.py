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
        symbols, lengths = _SYMBOLS[self.kind](texts)
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
    """Return a 64-bit hash of each word: a polynomial in the word's bytes modulo 2^64, mixed.

    The polynomials of all words come from one running sum: the sum over a word, divided by the power at its start.
    """
    split = [text.lower().split() for text in texts]
    lengths = np.array([len(words) for words in split], np.int64)
    joined = np.frombuffer("".join(f"{word} " for words in split for word in words).encode("utf-8"), np.uint8)
    ends = np.flatnonzero(joined == ord(" "))
    starts = np.concatenate([[0], ends[:-1] + 1]) if ends.size else ends
    powers, inverses = _powers(1 << max(16, int(joined.size).bit_length()))
    with np.errstate(over="ignore"):
        running = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_BYTE_VALUES[joined] * powers[: joined.size])])
        return _mixed((running[ends] - running[starts]) * inverses[starts]), lengths


_SYMBOLS = {"bytes": _byte_symbols, "chars": _character_symbols, "words": _word_symbols}

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
