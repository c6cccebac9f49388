"""Documents as padded batches for a model that has not been trained on them: each alone in its row, cut to the context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from midstudy.data.batch import IGNORED, Batch

DOCUMENTS_PER_BATCH = 32


def document_batches(documents: Sequence[NDArray[np.integer]], *, max_seq_len: int, end_id: int) -> Iterator[Batch]:
    """Yield batches of up to 32 documents in their order. The token after the last one of a document is the end of text.

    Args:
        documents: token ids, each of at least one token.
        max_seq_len: tokens of a document that are read.
        end_id: the token that ends every document; without it in a document that is cut.
    """
    for start in range(0, len(documents), DOCUMENTS_PER_BATCH):
        rows = [
            np.append(one, end_id)[: max_seq_len + 1].astype(np.int64)
            for one in documents[start : start + DOCUMENTS_PER_BATCH]
        ]
        width = max(map(len, rows)) - 1
        input_ids = np.full((len(rows), width), end_id, np.int64)
        targets = np.full((len(rows), width), IGNORED, np.int64)
        for place, row in enumerate(rows):
            input_ids[place, : len(row) - 1] = row[:-1]
            targets[place, : len(row) - 1] = row[1:]
        yield Batch(input_ids=input_ids, targets=targets)
