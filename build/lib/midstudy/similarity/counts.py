"""Token counts of a sample of documents, kept as two disjoint halves so that no comparison ever shares a document.

The sampling rule is the paper's (arXiv 2510.14865, github.com/nightingal3/midtraining
``util_scripts/dataset_similarity_syntactic.py``, method "token"): up to 1,000 documents, each text cut to 10,000
characters before it is tokenized, the first 512 tokens of each kept. The authors compare a corpus with a mix that
contains the very same documents; the halves kept here are what makes that avoidable.
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

    The caller cuts each text to ``MAX_CHARACTERS_PER_DOCUMENT`` characters before tokenizing it, and adds no special
    tokens. Documents past ``max_documents`` are not read from the iterable. ``max_tokens_per_document=None`` keeps
    whole documents. To have the paper's 1,000 documents on either side of a comparison, draw 2,000.

    Returns int64 counts of shape (2, vocab_size).

    Raises ValueError for an id outside ``[0, vocab_size)``, naming the document, and for a half without any token.
    """
    if vocab_size < 1:
        raise ValueError(f"vocab_size: found {vocab_size}, must be at least 1")
    counts = np.zeros((2, vocab_size), dtype=np.int64)
    num_documents = 0
    for index, token_ids in enumerate(islice(token_id_lists, max_documents)):
        num_documents = index + 1
        kept = np.asarray(token_ids[:max_tokens_per_document])
        if kept.size == 0:
            continue
        if not np.issubdtype(kept.dtype, np.integer):
            raise ValueError(f"document {index}: token ids must be integers, found dtype {kept.dtype}")
        low, high = int(kept.min()), int(kept.max())
        if low < 0 or high >= vocab_size:
            raise ValueError(
                f"document {index}: token ids run from {low} to {high}, allowed are 0 to {vocab_size - 1}; "
                "use the vocabulary size of the tokenizer that made them"
            )
        counts[index % 2] += np.bincount(kept, minlength=vocab_size)
    if not counts.any(axis=1).all():
        raise ValueError(
            f"the sample of {num_documents} documents leaves a half without tokens; "
            "at least two documents that are not empty are needed"
        )
    return counts
