"""A checkpoint as a model of its own, built without the cache of evaluations."""

from __future__ import annotations

from pathlib import Path

import torch

from midstudy.model.compiled import compile_model
from midstudy.model.pythia import Pythia
from midstudy.train import checkpoint
from midstudy.train.precision import Weights


def load_model(
    folder: Path, *, precision: str | None = None, device: torch.device | str = "cpu", compiled: bool = False
) -> Pythia:
    """Load a checkpoint into a new model that computes as it was trained, or in `precision`."""
    state = checkpoint.read(folder, with_optimizer=False)
    masters = {name: tensor.to(device, copy=True) for name, tensor in state.weights.items()}
    model = Weights(Pythia.empty(state.shape, device="meta"), masters, precision=precision or state.precision).model
    if compiled:
        compile_model(model)
    return model
