"""The model of a checkpoint, ready to be evaluated."""

from __future__ import annotations

from pathlib import Path

import torch

from midstudy.model.pythia import Pythia
from midstudy.train import checkpoint
from midstudy.train.precision import Weights


def load_model(folder: Path, *, precision: str | None = None, device: torch.device | str = "cpu") -> Pythia:
    """The model of a checkpoint, computing as it was trained, or in `precision`.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
    """
    state = checkpoint.read(folder, with_optimizer=False)
    model = Pythia.empty(state.shape, device="meta")
    weights = {name: tensor.to(device, copy=True) for name, tensor in state.weights.items()}
    return Weights(model, weights, precision=precision or state.precision).model
