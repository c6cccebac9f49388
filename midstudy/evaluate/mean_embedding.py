"""Embeddings of documents by a state's own model: the mean of the last hidden states over a document's tokens.

The paper's authors compare corpora by the cosine of mean embeddings of a separate embedding model (arXiv 2510.14865,
github.com/nightingal3/midtraining `util_scripts/dataset_similarity.py`). Here it is the model that is trained, so that
closeness is what this model sees at this state.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from midstudy.data.batch import IGNORED, Batch
from midstudy.model.language_model import LanguageModel


@torch.no_grad()
def document_embeddings(model: LanguageModel, read: Iterable[Batch]) -> NDArray[np.float64]:
    """Return the mean over the tokens of each row of the hidden states after the last LayerNorm.

    Args:
        read: batches as `document_batches` yields them; positions without a target are padding.

    Returns:
        float64 of shape (documents, width).
    """
    device = model.device
    found = []
    for batch in read:
        is_token = torch.from_numpy(batch.targets != IGNORED).to(device)
        hidden = model.hidden(torch.from_numpy(batch.input_ids).to(device)).double()
        sums = (hidden * is_token.unsqueeze(2)).sum(dim=1)
        found.append((sums / is_token.sum(dim=1, keepdim=True)).cpu().numpy())
    return np.concatenate(found)
