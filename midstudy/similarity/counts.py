"""Token counts of a sample of documents, in two disjoint halves, so that the two sides of a comparison share no document.

The sampling rule is the paper's (arXiv 2510.14865, github.com/nightingal3/midtraining
`util_scripts/dataset_similarity_syntactic.py`, method "token"): up to 1,000 documents, each text cut to 10,000
characters before it is tokenized, and the first 512 tokens of each. The authors compare a corpus with a mix that contains
the same documents; the two halves avoid that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

MAX_CHARACTERS_PER_DOCUMENT = 10_000
MAX_TOKENS_PER_DOCUMENT = 512
MAX_DOCUMENTS = 1_000


def token_counts(
    token_id_lists: Iterable[Sequence[int] | NDArray[np.integer]],
    vocab_size: int,
    *,
    max_tokens_per_document: int | None = MAX_TOKENS_PER_DOCUMENT,
    max_documents: int = MAX_DOCUMENTS,
) -> NDArray[np.int64]:
    """Count token ids in two disjoint halves of a sample: documents 0, 2, 4, … and documents 1, 3, 5, ….

    The caller cuts each text to `MAX_CHARACTERS_PER_DOCUMENT` characters before tokenizing it and adds no special tokens.
    Documents after `max_documents` are not read from the iterable. `max_tokens_per_document=None` keeps whole documents.
    For the paper's 1,000 documents on each side of a comparison, sample 2,000.

    Returns:
        int64 counts of shape (2, vocab_size).

    Raises:
        ValueError: an id is outside [0, vocab_size), with the document named, or a half has no tokens.
    """
    if vocab_size < 1:
        raise ValueError(f"vocab_size: expected at least 1, got {vocab_size}")
    counts = np.zeros((2, vocab_size), dtype=np.int64)
    num_documents = 0
    for index, token_ids in enumerate(islice(token_id_lists, max_documents)):
        num_documents = index + 1
        kept = np.asarray(token_ids[:max_tokens_per_document])
        if kept.size == 0:
            continue
        if not np.issubdtype(kept.dtype, np.integer):
            raise ValueError(f"document {index}: expected integer token ids, got dtype {kept.dtype}")
        low, high = int(kept.min()), int(kept.max())
        if low < 0 or high >= vocab_size:
            raise ValueError(
                f"document {index}: expected token ids from 0 to {vocab_size - 1}, got {low} to {high}; "
                "use the vocabulary size of the tokenizer that made them"
            )
        counts[index % 2] += np.bincount(kept, minlength=vocab_size)
    if not counts.any(axis=1).all():
        raise ValueError(
            f"expected two halves with tokens, got a sample of {num_documents} documents with an empty half; "
            "sample at least two non-empty documents"
        )
    return counts
