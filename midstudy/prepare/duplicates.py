"""Leave out documents that came before: the same text, or nearly the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from midstudy.prepare.document import Document
from midstudy.prepare.words import words
from midstudy.recipe.preparation import NearDuplicates

REPEATED, HELD_OUT = "repeated", "in dev or test"
NEAR, NEAR_HELD_OUT = "nearly repeated", "nearly in dev or test"


def exact_duplicates(held_out: Iterable[str]) -> Callable[[Document], str | None]:
    """Return why a document is an exact duplicate: of one before it, or of one of `held_out`.

    Memory: 16 bytes a document.
    """
    known = {_digest(text) for text in held_out}
    seen: set[bytes] = set()

    def why_not(document: Document) -> str | None:
        digest = _digest(document.text)
        if digest in known:
            return HELD_OUT
        if digest in seen:
            return REPEATED
        seen.add(digest)
        return None

    return why_not


def near_duplicates(step: NearDuplicates, held_out: Iterable[str]) -> Callable[[Document], str | None]:
    """Return why a document is a near duplicate: of a kept one before it, or of one of `held_out`.

    Bands of hashes select the documents to compare, and the share of equal hashes then estimates each similarity. Memory:
    `num_hashes` numbers a kept document.
    """
    from datasketch import MinHash, MinHashLSH

    known = MinHashLSH(threshold=float(step.jaccard), num_perm=step.num_hashes)
    hashes: dict[tuple[bool, int], Any] = {}

    def minima(text: str) -> Any:
        found = MinHash(num_perm=step.num_hashes, seed=step.seed + 1, hashfunc=_hash)
        found.update_batch(_grams(text, step.ngram))
        return found

    def keep(found: Any, is_held_out: bool) -> None:
        key = (is_held_out, len(hashes))
        hashes[key] = found
        known.insert(key, found, check_duplication=False)

    def why_not(document: Document) -> str | None:
        found = minima(document.text)
        alike = [key for key in known.query(found) if hashes[key].jaccard(found) >= step.jaccard]
        if alike:
            return NEAR_HELD_OUT if any(is_held_out for is_held_out, _ in alike) else NEAR
        keep(found, False)
        return None

    for text in held_out:
        keep(minima(text), True)
    return why_not


def _digest(text: str) -> bytes:
    return hashlib.blake2b(" ".join(text.split()).encode("utf-8"), digest_size=16).digest()


def _hash(gram: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(gram, digest_size=4).digest(), "little")


def _grams(text: str, n: int) -> list[bytes]:
    """Return the different n-grams of words; of a shorter text the text itself."""
    sequence = words(text)
    grams = {" ".join(sequence[start : start + n]) for start in range(max(1, len(sequence) - n + 1))}
    return [gram.encode("utf-8") for gram in sorted(grams)]
