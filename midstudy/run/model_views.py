"""Views of `midstudy compare` that a stage's own model makes: mean embeddings, and gradients of the loss.

Of each corpus equally many documents are read, sampled by the hash of their text, and each up to the model's context.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from midstudy.data.encoder import Encoder
from midstudy.data.tokenizer import FILE_NAME
from midstudy.recipe.curriculum import State
from midstudy.recipe.data import end_of_text_id
from midstudy.recipe.errors import RecipeError
from midstudy.run.stored_stage import stored_stage, tokenizer_folder, tokenizer_of
from midstudy.run.tokenizer_argument import loaded_tokenizer
from midstudy.similarity.mean_vectors import ComparedVectors, compare_vectors
from midstudy.store.store import Store

EMBEDDING, GRADIENTS = "embedding", "gradients"
MODEL_DOCUMENTS = 512
"""Documents of each corpus."""

MODEL_CHARACTERS = 2**17
"""Of a document; more than the tokens of any context here take."""

NUM_BLOCKS = 16
"""Blocks of documents whose mean gradients are the rows of a corpus."""


@dataclass(frozen=True)
class ModelView:
    """The comparison of a view: the state, the documents read of each corpus, and the cosines."""

    stage: str
    label: str
    num_documents: int
    compared: ComparedVectors

    @property
    def documents_per_side(self) -> int:
        """Half of the documents stand on each side of a comparison."""
        return self.num_documents // 2


@dataclass(frozen=True)
class StoredModel:
    """A state of a store, resolved before any text is read."""

    kind: str
    store: Store
    stage: str
    recipe: State


def is_model_view(view: str) -> bool:
    """Return whether a view has the form `embedding:STAGE` or `gradients:STAGE`."""
    kind, separator, stage = view.partition(":")
    return kind in (EMBEDDING, GRADIENTS) and bool(separator and stage)


def stored_model(view: str, store: Path) -> StoredModel:
    """Find the state that a view names.

    Raises:
        RecipeError: the store has no such state, or it is a tokenizer.
        StoreError: there is no store, or its files are damaged.
    """
    kind, _, name = view.partition(":")
    found, stage, recipe = stored_stage(store, name, option=f"--over {kind}")
    if not isinstance(recipe, State):
        raise RecipeError(f"--over {kind}", expected="a state, which has a model", got=f"the tokenizer {name}")
    return StoredModel(kind, found, stage, recipe)


def compare_by_model(
    model: StoredModel, documents: Mapping[str, Sequence[str]], *, on_progress: Callable[[str], None] = lambda line: None
) -> ModelView:
    """Compare corpora by a state's model, which computes in fp32.

    Args:
        documents: of each corpus, in random order. Equally many are used: the fewest that a corpus has.

    Raises:
        RecipeError: a corpus has too few documents for two halves with an interval.
        CheckpointError: the checkpoint is damaged.
        StoreError: the state's tokenizer is not in the store, or changed.
    """
    from midstudy.evaluate.document_batches import document_batches
    from midstudy.evaluate.gradient_alignment import block_gradients
    from midstudy.evaluate.mean_embedding import document_embeddings
    from midstudy.evaluate.model_cache import load_model
    from midstudy.execute.state import CHECKPOINT_FOLDER

    tokenizer = loaded_tokenizer((tokenizer_folder(model.store, model.recipe) / FILE_NAME).read_bytes())
    network = load_model(model.store.published_folder(model.stage) / CHECKPOINT_FOLDER, precision="fp32")
    start = model.recipe.curriculum.start
    context, end_id = start.model.max_seq_len, end_of_text_id(tokenizer_of(model.recipe))
    encoder = Encoder(tokenizer)
    ids = {name: [one[:context] for one in encoder.ids(texts) if one.size] for name, texts in documents.items()}
    least = NUM_BLOCKS if model.kind == GRADIENTS else 4
    fewest = min(ids, key=lambda name: len(ids[name]))
    if len(ids[fewest]) < least:
        raise RecipeError(
            f"compare.{fewest}", expected=f"at least {least} documents for {model.kind}", got=f"{len(ids[fewest])}",
            fix="Leave the corpus or the view out.",
        )  # fmt: skip
    size = len(ids[fewest]) // (NUM_BLOCKS if model.kind == GRADIENTS else 2)
    num_documents = size * (NUM_BLOCKS if model.kind == GRADIENTS else 2)
    rows: dict[str, NDArray[np.floating]] = {}
    for name, sequences in ids.items():
        on_progress(f"{model.kind}: {name}, {len(rows)} of {len(ids)} corpora done")
        chosen = sequences[:num_documents]
        if model.kind == GRADIENTS:
            blocks = [chosen[first : first + size] for first in range(0, num_documents, size)]
            read = [list(document_batches(block, max_seq_len=context, end_id=end_id)) for block in blocks]
            rows[name] = block_gradients(network, read)
        else:
            rows[name] = document_embeddings(network, document_batches(chosen, max_seq_len=context, end_id=end_id))
    label = model.store.requested(model.stage)["label"]
    return ModelView(model.stage, label, num_documents, compare_vectors(rows))
