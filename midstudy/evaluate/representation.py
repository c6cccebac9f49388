"""Compare the hidden states of two states: linear CKA between all their layers, and the distortion of the last layer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from midstudy.data.batch import IGNORED, Batch
from midstudy.evaluate.cka import LinearCKA
from midstudy.evaluate.sequences import batches, chosen_sequences, sequences_tally
from midstudy.evaluate.subject import Subject
from midstudy.model.language_model import LanguageModel
from midstudy.recipe.representation import (
    CKA_FILE,
    LAST_LAYER_CKA,
    LAYER_DISTORTION,
    MEAN_DIAGONAL_CKA,
    RepresentationSimilarity,
)
from midstudy.train.precision import Weights


def compare_representations(evaluation: RepresentationSimilarity, subject: Subject) -> dict[str, Any]:
    """Return the metrics of `RepresentationSimilarity` and the number of examples; write the matrix into `CKA_FILE`.

    Raises:
        ValueError: almost nothing of the split fits within the evaluation's `seq_len` (`Tally.require_enough`), or a layer
            does not vary over the examples.
    """
    assert subject.other_weights is not None
    tally = sequences_tally(evaluation, subject.split)
    print(tally.sentence, flush=True)
    tally.require_enough()
    sequences = chosen_sequences(evaluation, subject.split)
    with subject.weights() as weights, subject.other_weights() as other:
        read = subject.until_stopped(batches(evaluation, subject.split, sequences))
        cka = compare_layers(weights.model, other.model, read, examples=evaluation.examples)
        distortion = layer_distortion(weights, other)
    matrix = cka.matrix()
    _write_matrix(subject.folder, matrix)
    return {
        MEAN_DIAGONAL_CKA.name: float(matrix.diagonal().mean()),
        LAST_LAYER_CKA.name: float(matrix[-1, -1]),
        LAYER_DISTORTION.name: distortion,
        "num_examples": cka.num_examples,
        "left_out": {evaluation.split: tally.as_metrics()},
    }


@torch.no_grad()
def compare_layers(model: LanguageModel, other: LanguageModel, read: Iterable[Batch], *, examples: str) -> LinearCKA:
    """Return the sums for linear CKA between the hidden states of two models on the same batches.

    Args:
        examples: `tokens`, or `sequences` for the mean over each sequence's tokens; padding is left out.
    """
    cka = LinearCKA()
    for batch in read:
        cka.add(*(_examples(one, batch, by_sequence=examples == "sequences") for one in (model, other)))
    return cka


def _examples(model: LanguageModel, batch: Batch, *, by_sequence: bool) -> list[Tensor]:
    """Return each layer's examples, of shape (num_examples, width)."""
    device = model.device
    is_token = torch.from_numpy(batch.targets != IGNORED).to(device)
    layers = model.hidden_states(torch.from_numpy(batch.input_ids).to(device))
    if not by_sequence:
        return [layer[is_token] for layer in layers]
    shares = (is_token / is_token.sum(dim=1, keepdim=True, dtype=torch.float64)).unsqueeze(1)
    return [(shares @ layer.double()).squeeze(1) for layer in layers]


def layer_distortion(weights: Weights, other: Weights) -> float:
    """Return the Euclidean norm of the difference between the output weights of the last block's MLP, in fp64.

    Source: arXiv 2510.14865 and its repository, nightingal3/midtraining.
    """
    name = f"blocks.{weights.model.shape.num_layers - 1}.mlp_out.weight"
    return float(torch.linalg.norm(weights.masters[name].detach().double() - other.masters[name].detach().double()))


def _write_matrix(folder: Path, matrix: NDArray[np.float64]) -> None:
    """Write one row per pair of layers into `CKA_FILE`; layer 0 is the embedding."""
    import pyarrow
    from pyarrow import parquet

    layer_a, layer_b = np.indices(matrix.shape)
    columns = {"layer_a": layer_a.ravel(), "layer_b": layer_b.ravel(), "cka": matrix.ravel()}
    parquet.write_table(pyarrow.table(columns), folder / CKA_FILE)
