"""The mean of checkpoints' weights: of the last states of a run, or of several seeds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from midstudy.train import checkpoint
from midstudy.train.checkpoint import CheckpointError


@torch.no_grad()
def mean_weights(folders: Iterable[Path]) -> dict[str, Tensor]:
    """The uniform mean of the weights of these checkpoints, tensor by tensor, in their own type.

    Added up in fp64, in the given order, and rounded once: of bf16 weights too, which a running mean in bf16 would lose in
    its rounding. One checkpoint at a time is in memory beside the sums.

    Raises:
        CheckpointError: a checkpoint is missing or damaged, or its weights have another name, shape or type than the
            first's.
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
                raise CheckpointError(f"{folder}: its {name} is not that of {read[0]}; only like can be averaged.")
            sums[name] += weights[name]
    return {name: total.div_(len(read)).to(types[name]) for name, total in sums.items()}
