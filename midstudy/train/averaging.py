"""Average the weights of checkpoints: of the last states of a run, or of several seeds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from midstudy.train import checkpoint
from midstudy.train.checkpoint import CheckpointError


@torch.no_grad()
def mean_weights(folders: Iterable[Path]) -> dict[str, Tensor]:
    """Return the uniform mean of the weights of these checkpoints, tensor by tensor, in their dtype.

    Weights are summed in fp64, in the given order, and rounded once; a running mean in bf16 would lose small differences.
    One checkpoint at a time is in memory, besides the sums.

    Raises:
        CheckpointError: a checkpoint is missing or damaged, or the names, shapes or dtypes of its weights differ from the
            first checkpoint's.
    """
    sums: dict[str, Tensor] = {}
    types: dict[str, torch.dtype] = {}
    read: list[Path] = []
    for folder in folders:
        read.append(folder)
        weights = checkpoint.read(folder, with_optimizer=False).weights
        if not sums:
            types = {name: tensor.dtype for name, tensor in weights.items()}
            sums = {name: torch.zeros(tensor.shape, dtype=torch.float64) for name, tensor in weights.items()}
        for name in sums.keys() | weights.keys():
            if (
                name not in weights
                or name not in sums
                or weights[name].shape != sums[name].shape
                or weights[name].dtype != types[name]
            ):
                raise CheckpointError(
                    f"{folder}: its {name} differs from that of {read[0]}; checkpoints to average must have identical "
                    "tensors (names, shapes and dtypes)."
                )
            sums[name] += weights[name]
    return {name: total.div_(len(read)).to(types[name]) for name, total in sums.items()}
