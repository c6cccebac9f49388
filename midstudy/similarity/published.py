"""The paper's token similarity exactly as its authors computed it, with the constants of their code.

arXiv 2510.14865, github.com/nightingal3/midtraining `util_scripts/dataset_similarity_syntactic.py`, method "token", at
commit 2a727a5: up to 1,000 documents, each cut to 10,000 characters and then to 512 tokens, without special tokens; the
50,000 most frequent ids of each side, ties to the id that occurs first; and, over the ids of both sides,

    p = counts / (Σ counts + 1e-10)
    cosine = p·q / (|p||q| + 1e-10)
    js = 1 / (1 + (Σ p log(p/(m + 1e-10) + 1e-10) + Σ q log(q/(m + 1e-10) + 1e-10)) / 2), m = (p + q)/2
    combined = 0.4 cosine + 0.3 jaccard + 0.3 js

`midstudy/similarity/distribution.py` has the definitions without the constants, which add a bias. The authors set the
diagonal of their matrix to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from midstudy.similarity.distribution import COSINE_SHARE, JACCARD_SHARE, JS_SHARE, MAX_IDS_PER_SIDE

EPSILON = 1e-10


@dataclass(frozen=True, eq=False)
class PublishedCounts:
    """The ids of a sample: `counts` of shape (vocab_size,), 0 for an id that is absent or not kept, and `num_tokens`."""

    counts: NDArray[np.int64]
    num_tokens: int

    @classmethod
    def of(cls, token_ids: NDArray[np.integer], vocab_size: int, *, max_ids: int = MAX_IDS_PER_SIDE) -> PublishedCounts:
        """Count the ids of a sample, the tokens of its documents one after another.

        Raises:
            ValueError: there are no tokens, or an id is outside [0, vocab_size).
        """
        if not token_ids.size:
            raise ValueError("expected tokens, got a sample without any")
        if int(token_ids.min()) < 0 or int(token_ids.max()) >= vocab_size:
            raise ValueError(
                f"expected token ids from 0 to {vocab_size - 1}, got {int(token_ids.min())} to {int(token_ids.max())}"
            )
        counts = np.bincount(token_ids, minlength=vocab_size)
        if np.count_nonzero(counts) > max_ids:
            ids, firsts = np.unique(token_ids, return_index=True)
            dropped = ids[np.lexsort((firsts, -counts[ids]))[max_ids:]]
            counts[dropped] = 0
        return cls(counts, token_ids.size)


@dataclass(frozen=True)
class PublishedSimilarity:
    """What the authors' code returns for a pair; `overlap` is the shared ids over the smaller vocabulary."""

    combined: float
    cosine: float
    jaccard: float
    js: float
    overlap: float


def published_similarity(first: PublishedCounts, second: PublishedCounts) -> PublishedSimilarity:
    """Return the similarity of two samples over one vocabulary, by the authors' formulas.

    Raises:
        ValueError: the vocabularies have different sizes.
    """
    if first.counts.size != second.counts.size:
        raise ValueError(
            f"expected counts over one vocabulary, got sizes {first.counts.size} and {second.counts.size}; use one tokenizer"
        )
    seen_a, seen_b = first.counts > 0, second.counts > 0
    union = np.flatnonzero(seen_a | seen_b)
    p, q = (one.counts[union] / (one.counts.sum() + EPSILON) for one in (first, second))
    shared = int((seen_a & seen_b).sum())
    cosine = float(p @ q / (np.linalg.norm(p) * np.linalg.norm(q) + EPSILON))
    middle = 0.5 * (p + q) + EPSILON
    jsd = 0.5 * float(np.sum(p * np.log(p / middle + EPSILON)) + np.sum(q * np.log(q / middle + EPSILON)))
    jaccard, js = shared / union.size, 1.0 / (1.0 + jsd)
    return PublishedSimilarity(
        combined=COSINE_SHARE * cosine + JACCARD_SHARE * jaccard + JS_SHARE * js,
        cosine=cosine,
        jaccard=jaccard,
        js=js,
        overlap=shared / int(min(seen_a.sum(), seen_b.sum())),
    )
