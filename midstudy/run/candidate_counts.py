"""Counts of text for `midstudy recommend`: byte windows, hashed words and dev documents, of sampled documents, cached.

Documents are sampled by the hash of their text, so a sample depends neither on their order nor on their number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from midstudy.data.hash_sample import HashSample, batches_of
from midstudy.data.named_text import NamedText
from midstudy.data.splits import unit_hash
from midstudy.recipe.errors import RecipeError
from midstudy.run.counts_cache import Arrays, cached, read
from midstudy.run.pool import each
from midstudy.similarity.byte_expert import NUM_GROUPS, ByteCounts
from midstudy.similarity.hashed_words import NUM_BINS, bin_counts
from midstudy.similarity.word_order import order_score

SAMPLE_BYTES = 4_000_000
DEV_BYTES = 1_000_000


def counts_of(
    texts: Sequence[NamedText], *, max_bytes: int, num_processes: int, on_progress: Callable[[str], None]
) -> list[Arrays]:
    """Return the counts of each text; see `counted`."""
    found = {text.name: read(_counts_key(text, max_bytes)) for text in texts}
    missing = [text for text in texts if found[text.name] is None]
    work = partial(counted, max_bytes=max_bytes)
    found_now = each(work, missing, num_processes=num_processes, on_progress=on_progress, done="counted")
    made = {text.name: arrays for text, arrays in zip(missing, found_now, strict=True)}
    return [found[text.name] or made[text.name] for text in texts]


def _counts_key(text: NamedText, max_bytes: int) -> list[Any]:
    return ["counts", text.identity, max_bytes]


def counted(text: NamedText, max_bytes: int) -> Arrays:
    """Return the byte counts (`byte_counts`), word bins and order score of a sample of the train text, and the whole size.

    Raises:
        RecipeError: the train split has no text.
    """

    def count() -> Arrays:
        sample, whole = HashSample(max_bytes=max_bytes), [0, 0]
        for document in text.documents():
            sample.add(document)
            whole = [whole[0] + 1, whole[1] + len(document.encode("utf-8"))]
        if not whole[0]:
            raise RecipeError(f"recommend.{text.name}", expected="documents with text", got=f"none in {text.argument}")
        documents = sample.documents()
        return _arrays(documents) | {
            "bins": _bins(documents),
            "order_score": np.array(order_score(documents)),
            "whole_documents": np.array(whole[0]),
            "whole_bytes": np.array(whole[1]),
        }

    return cached(_counts_key(text, max_bytes), count)


def halves(general: NamedText) -> Arrays:
    """Count two disjoint halves of general text without its dev split, of equal bytes: `general` and `placebo`."""

    def count() -> Arrays:
        held = set(general.documents(split="dev")) if general.path is not None else set()
        samples = {name: HashSample(max_bytes=SAMPLE_BYTES) for name in ("general", "placebo")}
        for document in general.documents():
            if document not in held:
                samples["general" if unit_hash(document) < 0.5 else "placebo"].add(document)
        documents = {name: sample.documents() for name, sample in samples.items()}
        budget = min(sum(len(text.encode("utf-8")) for text in texts) for texts in documents.values())
        if not budget:
            raise RecipeError(
                f"recommend.{general.name}", expected="at least two documents in each half of general text",
                got=f"fewer in {general.argument}",
            )  # fmt: skip
        arrays: Arrays = {"budget": np.array(budget)}
        for name, texts in documents.items():
            kept = HashSample(max_bytes=budget)
            for text in texts:
                kept.add(text)
            arrays |= {f"{name}.{key}": value for key, value in _arrays(kept.documents()).items()}
            if name == "general":
                arrays["bins"] = _bins(kept.documents())
        return arrays

    return cached(["halves", general.identity, SAMPLE_BYTES], count)


def _arrays(documents: Sequence[str]) -> Arrays:
    encoded = [text.encode("utf-8") for text in documents]
    groups = [hashlib.blake2b(text, digest_size=8).digest()[0] % NUM_GROUPS for text in encoded]
    counts = ByteCounts.of(encoded, groups)
    return {
        "keys": counts.keys,
        "counts": counts.counts,
        "num_documents": np.array(counts.num_documents),
        "num_bytes": np.array(counts.num_bytes),
    }


def _bins(documents: Sequence[str]) -> np.ndarray:
    counts = np.zeros(NUM_BINS, np.int64)
    for batch in batches_of(documents):
        counts += bin_counts(batch)
    return counts


def byte_counts(arrays: Arrays, part: str = "") -> ByteCounts:
    """Return the byte counts among arrays of `counted`, or of a part of `halves`."""
    prefix = f"{part}." if part else ""
    return ByteCounts(
        arrays[f"{prefix}keys"],
        arrays[f"{prefix}counts"],
        int(arrays[f"{prefix}num_documents"]),
        int(arrays[f"{prefix}num_bytes"]),
    )


def dev_documents(text: NamedText) -> list[bytes]:
    """Return a sample of the dev documents.

    Raises:
        RecipeError: the dev split has no text.
    """

    def sampled() -> Arrays:
        sample = HashSample(max_bytes=DEV_BYTES)
        for document in text.documents(split="dev"):
            sample.add(document)
        encoded = [document.encode("utf-8") for document in sample.documents()]
        if not encoded:
            raise RecipeError(
                f"recommend.{text.name}", expected="documents in the dev split", got=f"none in {text.argument}"
            )
        return {
            "bytes": np.frombuffer(b"".join(encoded), np.uint8),
            "lengths": np.array([len(one) for one in encoded], np.int64),
        }

    arrays = cached(["dev", text.identity, DEV_BYTES], sampled)
    joined, ends = arrays["bytes"].tobytes(), np.cumsum(arrays["lengths"]).tolist()
    return [joined[end - length : end] for end, length in zip(ends, arrays["lengths"].tolist(), strict=True)]
